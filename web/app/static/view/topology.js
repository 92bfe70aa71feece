// What the stack manager says: replicas, their states, and what it is doing. It may say nothing, on
// a Swarm or before it has run; then the answers have to tell.

const EVERY_MS = 400;
const IF_NOBODY_TELLS_MS = 3000;
const LIMIT_MS = 5000;

// Calls `onChange` whenever something new is said. It gets what it says, or null, and by how much its clock is ahead of this one.
export function watchTopology(onChange) {
  let last = null;
  let missing = 0;
  async function poll() {
    const found = await fetched();
    missing = found?.text === "" ? missing + 1 : 0;
    // While a new one takes its place, there is none for an instant.
    const doubtful = last && missing === 1;
    if (found && !doubtful && found.text !== last) {
      last = found.text;
      onChange(found.topology, found.aheadMs);
    }
    setTimeout(poll, last ? EVERY_MS : IF_NOBODY_TELLS_MS);
  }
  poll();
}

// Null if nobody knows just now: the proxy is away or busy, or the text is half written.
async function fetched() {
  try {
    const signal = AbortSignal.timeout(LIMIT_MS);
    const response = await fetch("/stack/topology.json", { cache: "no-store", signal });
    if (response.status === 404) return { text: "", topology: null, aheadMs: 0 };
    if (!response.ok) return null;
    const text = await response.text();
    const aheadMs = Date.parse(response.headers.get("Date")) - Date.now();
    // The header has whole seconds.
    return { text, topology: JSON.parse(text), aheadMs: Math.abs(aheadMs) < 2000 ? 0 : aheadMs };
  } catch {
    return null;
  }
}
