// The page's own load: requests at a constant rate, as far as a browser goes.

const LIMIT_MS = 100_000;
const TICK_MS = 25;
// A browser has six connections to a server by HTTP/1.1. What it cannot send would wait in it unseen,
// so it is not asked for; and one connection is left for the news.
const AT_ONCE = 5;

// After what it is to take, an answer may need this much more before it is overdue.
const PATIENCE_MS = 3000;

// A request is lost if it is not answered with 200, and that within LIMIT_MS.
export class Load {
  constructor(onSent, onAnswer) {
    Object.assign(this, { onSent, onAnswer });
    Object.assign(this, { rate: 0, method: "GET", workMs: 0, sent: 0, lost: 0 });
    this.inFlight = new Set();
    this.due = performance.now();
    // Requests of an earlier count are not counted in this one.
    this.generation = 0;
    setInterval(() => this.tick(), TICK_MS);
  }

  get waiting() {
    return this.inFlight.size;
  }

  // When those requests were sent that should have been answered by now.
  overdue() {
    const now = Date.now();
    return [...this.inFlight].filter((one) => one.dueAt < now).map((one) => one.sentAt);
  }

  countAnew() {
    this.sent = this.lost = 0;
    this.generation++;
  }

  tick() {
    const now = performance.now();
    if (this.rate === 0 || document.hidden) {
      this.due = now;
      return;
    }
    // Not more than a second's worth after the browser had better things to do.
    this.due = Math.max(this.due, now - 1000);
    while (this.due <= now) {
      this.due += 1000 / this.rate;
      if (this.waiting < AT_ONCE) this.ask();
    }
  }

  async ask() {
    const { generation } = this;
    const sentAt = Date.now();
    const request = { sentAt, dueAt: sentAt + this.workMs + PATIENCE_MS };
    this.sent++;
    this.inFlight.add(request);
    this.onSent();
    const began = performance.now();
    const answer = await fetched(this.method, this.workMs);
    this.inFlight.delete(request);
    if (!answer && generation === this.generation) this.lost++;
    const { replica = null, revision = null } = answer ?? {};
    this.onAnswer({ sentAt, ms: performance.now() - began, replica, revision });
  }
}

async function fetched(method, workMs) {
  try {
    const signal = AbortSignal.timeout(LIMIT_MS);
    const response = await fetch(`/api/work?ms=${workMs}`, { method, cache: "no-store", signal });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}
