// The last two minutes: answers per second by revision, what was lost, and what the manager did.

const SECONDS = 120;
const DRAW_MS = 500;
const LOST = "lost";
const HEADROOM_PX = 14;

export class Strip {
  constructor(canvas, top, legend, colorOf) {
    Object.assign(this, { canvas, top, legend });
    this.colorOf = (name) => (name === LOST ? "var(--error)" : colorOf(name));
    // Of each second, how many were answered by each revision, or lost.
    this.seconds = new Map();
    this.marks = [];
    this.still = false;
    setInterval(() => this.draw(), DRAW_MS);
  }

  add(request) {
    const second = Math.floor(Date.now() / 1000);
    const counts = this.seconds.get(second) ?? new Map();
    const name = request.revision ?? LOST;
    counts.set(name, (counts.get(name) ?? 0) + 1);
    this.seconds.set(second, counts);
  }

  mark(at) {
    this.marks.push(at);
  }

  draw() {
    if (this.still) return;
    const now = Date.now() / 1000;
    for (const second of this.seconds.keys()) {
      if (second < now - SECONDS) this.seconds.delete(second);
    }
    this.marks = this.marks.filter((at) => at > now - SECONDS);
    const totals = new Map();
    for (const counts of this.seconds.values()) {
      for (const [name, count] of counts) totals.set(name, (totals.get(name) ?? 0) + count);
    }
    this.describe(totals);
    this.paint(now, [...totals.keys()].sort((a, b) => (a === LOST) - (b === LOST)));
  }

  paint(now, names) {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    const pen = canvas.getContext("2d");
    pen.scale(devicePixelRatio, devicePixelRatio);
    const colors = new Map(names.map((name) => [name, resolved(this.colorOf(name))]));
    const most = Math.max(10, ...[...this.seconds.values()].map((counts) => sum(counts.values())));
    this.top.textContent = most;
    const bar = width / SECONDS;
    const xOf = (at) => width - (now - at) * bar;
    for (const [second, counts] of this.seconds) {
      // The second that is under way is not whole yet.
      if (second === Math.floor(now)) continue;
      let y = height;
      for (const name of names) {
        const tall = ((counts.get(name) ?? 0) / most) * (height - HEADROOM_PX);
        y -= tall;
        pen.fillStyle = colors.get(name);
        pen.fillRect(xOf(second), y, bar - 0.5, tall);
      }
    }
    pen.strokeStyle = resolved("var(--ink)");
    pen.lineWidth = 2;
    for (const at of this.marks) {
      pen.beginPath();
      pen.moveTo(xOf(at), 0);
      pen.lineTo(xOf(at), HEADROOM_PX - 3);
      pen.stroke();
    }
  }

  describe(totals) {
    const { children } = this.legend;
    while (children.length > totals.size) this.legend.lastElementChild.remove();
    while (children.length < totals.size) this.legend.append(document.createElement("li"));
    [...totals].forEach(([name, count], index) => {
      const text = `${name}: ${count}`;
      if (children[index].textContent !== text) children[index].textContent = text;
      children[index].style.setProperty("--of", this.colorOf(name));
    });
  }
}

function sum(numbers) {
  let total = 0;
  for (const number of numbers) total += number;
  return total;
}

// A canvas knows no variables: what a colour is here and now, in light or dark.
function resolved(color) {
  const probe = document.createElement("span");
  probe.style.color = color;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
