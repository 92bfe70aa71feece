// A tile for each replica. They appear, drain and vanish as the stack changes.

const REFRESH_MS = 500;
const GONE_MS = 1500;
const WINDOW_MS = 5000;
// The proxy takes turns. Who should have had so many since its last answer is silent; it takes a
// few, since others may ask as well, and have its turns.
const TURNS = 4;
const KEPT = 1000;

const WORDS = { silent: "does not answer" };

export class Tiles {
  // `overdue` says when those requests were sent that should have been answered by now.
  constructor(list, colorOf, overdue) {
    Object.assign(this, { list, colorOf, overdue });
    this.tiles = new Map();
    // When requests of this page were sent that were answered since, or lost.
    this.ended = [];
    setInterval(() => this.refresh(), REFRESH_MS);
  }

  // What the manager says; null if it says nothing.
  update(topology) {
    if (!topology) return;
    const { project, replicas } = topology;
    for (const one of replicas) this.upsert({ ...one, name: shortName(one.name, project), told: true });
    const ids = new Set(replicas.map((one) => one.id));
    for (const id of this.tiles.keys()) if (!ids.has(id)) this.remove(id);
    this.sort();
  }

  // A request has ended; without a replica, it was lost.
  add({ sentAt, replica: id, revision, ms }) {
    this.ended.push(sentAt);
    if (this.ended.length > KEPT) this.ended.shift();
    if (!id) return;
    // Somebody answers of whom no manager has told yet.
    if (!this.tiles.has(id)) {
      this.upsert({ id, name: id, revision, state: "answers", routed: true, told: false });
    }
    const tile = this.tiles.get(id);
    tile.answers.push({ at: Date.now(), ms });
    tile.answeredAt = Math.max(tile.answeredAt, sentAt);
  }

  element(id) {
    return this.tiles.get(id)?.element ?? null;
  }

  upsert(one) {
    let tile = this.tiles.get(one.id);
    if (!tile) {
      tile = { element: build(one.id), answers: [], answeredAt: 0 };
      this.list.append(tile.element);
      this.tiles.set(one.id, tile);
    }
    const changed = one.state !== tile.state || one.routed !== tile.routed;
    // Its turns count from here.
    if (changed) tile.since = Date.now();
    Object.assign(tile, one);
    tile.element.style.setProperty("--of", this.colorOf(one.revision));
    write(tile.element, ".name", one.name);
    write(tile.element, ".revision", one.revision);
    if (changed || shown(tile) !== "silent") setState(tile, one.state);
  }

  remove(id) {
    const tile = this.tiles.get(id);
    if (shown(tile) === "gone") return;
    setState(tile, "gone");
    setTimeout(() => {
      if (shown(tile) !== "gone") return;
      tile.element.remove();
      this.tiles.delete(id);
    }, GONE_MS);
  }

  sort() {
    const name = (element) => element.querySelector(".name").textContent;
    const before = [...this.list.children];
    const after = before.toSorted((a, b) => name(a).localeCompare(name(b), "en", { numeric: true }));
    if (after.some((element, index) => element !== before[index])) this.list.append(...after);
  }

  refresh() {
    const since = Date.now() - WINDOW_MS;
    let total = 0;
    for (const tile of this.tiles.values()) {
      tile.answers = tile.answers.filter((one) => one.at > since);
      total += tile.answers.length;
      // This page asks one service; of the others it knows nothing but what it is told.
      if (tile.answers.length) this.asked = tile.service ?? this.asked;
    }
    const missed = [...this.ended, ...this.overdue()];
    const asked = [...this.tiles.values()].filter((tile) => this.isAsked(tile));
    for (const [id, tile] of this.tiles) {
      const share = total ? tile.answers.length / total : 0;
      const ms = median(tile.answers.map((one) => one.ms));
      write(tile.element, ".percent", total ? `${Math.round(share * 100)} %` : "–");
      write(tile.element, ".ms", ms === null ? "–" : `${Math.round(ms)} ms`);
      tile.element.querySelector(".share span").style.width = `${share * 100}%`;
      if (asked.includes(tile)) this.detectSilent(id, tile, missed, TURNS * asked.length);
    }
  }

  // Whether it has turns.
  isAsked(tile) {
    return tile.routed && shown(tile) !== "gone" && (!tile.service || tile.service === this.asked);
  }

  // Nobody tells of a replica that ends by itself: that requests are answered by others, or by
  // nobody, and it answers none, says it.
  detectSilent(id, tile, missed, most) {
    const from = Math.max(tile.answeredAt, tile.since);
    const silent = missed.filter((at) => at > from).length >= most;
    if (silent && !tile.told) this.remove(id);
    else if (silent && shown(tile) === "healthy") setState(tile, "silent");
    else if (!silent && shown(tile) === "silent") setState(tile, tile.state);
  }
}

export function median(numbers) {
  if (numbers.length === 0) return null;
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function shown(tile) {
  return tile.element.dataset.state;
}

function setState(tile, state) {
  tile.element.dataset.state = state;
  const waits = state === "healthy" && !tile.routed;
  write(tile.element, ".state", waits ? "healthy, no traffic" : (WORDS[state] ?? state));
}

// "shop-web-2" is "web-2" to whoever looks at the stack "shop".
function shortName(name, project) {
  return name.startsWith(`${project}-`) ? name.slice(project.length + 1) : name;
}

function build(id) {
  const element = document.createElement("li");
  element.className = "replica";
  element.dataset.id = id;
  element.innerHTML = `
    <h2><span class="name"></span> <span class="revision"></span></h2>
    <p class="state"></p>
    <dl><dt>gets</dt><dd class="percent">–</dd><dt>in</dt><dd class="ms">–</dd></dl>
    <div class="share" aria-hidden="true"><span></span></div>`;
  return element;
}

function write(element, selector, value) {
  const found = element.querySelector(selector);
  if (found.textContent !== value) found.textContent = value;
}
