// Requests as dots, from the page through nginx to the replica that answered.

const AT_ONCE = 60;
const TRIP_MS = 700;

export class Dots {
  constructor(layer, client, proxy, tiles, colorOf) {
    Object.assign(this, { layer, client, proxy, tiles, colorOf });
    this.wanted = matchMedia("(prefers-reduced-motion: reduce)");
    this.still = false;
  }

  // A dot sets out once it is known who has answered: nobody can see that before.
  show(request) {
    if (this.still || this.wanted.matches || document.hidden || this.layer.childElementCount >= AT_ONCE) return;
    const end = request.replica ? this.tiles.element(request.replica) : this.proxy;
    if (!end) return;
    const dot = document.createElement("span");
    dot.className = request.replica ? "dot" : "dot lost";
    dot.style.setProperty("--of", request.revision ? this.colorOf(request.revision) : "");
    this.layer.append(dot);
    const around = this.layer.getBoundingClientRect();
    const frames = this.path(end).map(([x, y]) => ({
      transform: `translate(${x - around.x}px, ${y - around.y}px)`,
    }));
    const moved = dot.animate(frames, { duration: TRIP_MS, easing: "ease-in-out" });
    moved.onfinish = () => dot.remove();
  }

  path(end) {
    const [client, proxy] = [this.client, this.proxy].map((node) => node.getBoundingClientRect());
    if (end === this.proxy) return [rightOf(client), leftOf(proxy)];
    return [rightOf(client), leftOf(proxy), rightOf(proxy), leftOf(end.getBoundingClientRect())];
  }
}

function leftOf(box) {
  return [box.left, box.top + box.height / 2];
}

function rightOf(box) {
  return [box.right, box.top + box.height / 2];
}
