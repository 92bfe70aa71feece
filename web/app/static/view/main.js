// The live view: puts the parts together.

import { Dots } from "./dots.js";
import { Load } from "./load.js";
import { Strip } from "./strip.js";
import { median, Tiles } from "./tiles.js";
import { watchTopology } from "./topology.js";

const COLORS = 5;
const MARKS = 50;
const RECENT = 50;
const CHECK_MS = 2000;
const NO_NEWS_S = 60;
const byId = (id) => document.getElementById(id);

const revisions = [];
// A colour each, in the order in which they appear.
function colorOf(revision) {
  if (!revisions.includes(revision)) revisions.push(revision);
  return `var(--revision-${revisions.indexOf(revision) % COLORS})`;
}

const tiles = new Tiles(byId("replicas"), colorOf, () => load.overdue());
const strip = new Strip(byId("strip"), byId("top"), byId("legend"), colorOf);
const dots = new Dots(byId("dots"), byId("client"), byId("proxy"), tiles, colorOf);
const recent = [];

const load = new Load(score, (request) => {
  tiles.add(request);
  strip.add(request);
  dots.show(request);
  if (request.replica) recent.push(request.ms);
  if (recent.length > RECENT) recent.shift();
  write("latency", recent.length ? Math.round(median(recent)) : "–");
  score();
});

let alarmed = false;
function score() {
  write("sent", load.sent);
  write("lost", load.lost);
  write("waiting", load.waiting);
  byId("lost").classList.toggle("some", load.lost > 0);
  // Once: whoever listens is told of other things, too.
  if (load.lost > 0 && !alarmed) write("spoken", "A request was lost.");
  alarmed = load.lost > 0;
}

// Screen readers speak of what is written, also if it was there before.
function write(id, value) {
  if (byId(id).textContent !== String(value)) byId(id).textContent = value;
}

const controls = byId("client");
function readControls() {
  const given = new FormData(controls);
  load.rate = Number(given.get("rate"));
  load.workMs = Number(given.get("work"));
  load.method = given.get("method");
  dots.still = strip.still = given.has("still");
  write("rate", load.rate);
}
controls.addEventListener("input", readControls);
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", (event) => {
  // The counters alone: the load stays as it is.
  event.preventDefault();
  load.countAnew();
  score();
});
readControls();

let said = null;
watchTopology((topology, aheadMs) => {
  tiles.update(topology);
  said = { topology, aheadMs };
  write("spoken", showManager());
  for (const step of topology?.steps ?? []) mark(step, aheadMs);
});
setInterval(() => said && showManager(), CHECK_MS);

// Returns what a screen reader says of it: not every step.
function showManager() {
  const { text, busy, spoken } = describe(said.topology, (Date.now() + said.aheadMs) / 1000);
  write("manager", text);
  byId("manager").classList.toggle("busy", busy);
  return spoken;
}

function describe(topology, nowS) {
  if (!topology) {
    const text = "No manager tells what runs: this is what the answers tell.";
    return { text, busy: false, spoken: text };
  }
  const verb = topology.verb.replaceAll("`", "");
  const now = topology.steps.at(-1);
  if (!topology.outcome) {
    const step = now ? `, ${now.number} of ${now.total}: ${now.why}` : "";
    // A build takes its time. But a manager that was killed says nothing of that.
    const busy = nowS - topology.at < NO_NEWS_S;
    const since = busy ? `since ${clock(now?.at ?? topology.at)}` : `no news since ${clock(topology.at)}`;
    return { text: `${verb}${step} (${since})`, busy, spoken: verb };
  }
  const count = topology.replicas.length;
  const replicas = `${count} replica${count === 1 ? "" : "s"}`;
  const text = `${verb}: ${topology.outcome}, ${replicas} at ${clock(topology.at)}`;
  return { text, busy: false, spoken: `${verb}: ${topology.outcome}` };
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

const marked = new Set();
function mark(step, aheadMs) {
  const at = step.at - aheadMs / 1000;
  // What happened before this page was opened is not in its picture.
  if (marked.has(step.at) || at * 1000 < performance.timeOrigin) return;
  marked.add(step.at);
  strip.mark(at);
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = clock(step.at);
  item.append(time, step.why);
  byId("marks").prepend(item);
  while (byId("marks").childElementCount > MARKS) byId("marks").lastElementChild.remove();
}
