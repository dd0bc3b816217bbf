// The page follows api/status and draws the whole status each time: it is
// small, and so nothing on the page can be older than the rest. Text goes in by
// textContent only, names of topics and sites are never markup.
"use strict";

const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
  for (const c of children) e.append(c);
  return e;
}

const count = (n) => (n < 0 ? "unknown" : n.toLocaleString("en"));
const records = (n) => (n === 1 ? "1 record" : count(n) + " records");

// span says how long, as coarse as a reader wants it.
function span(seconds) {
  if (seconds < 0) return "unknown";
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  return seconds < 172800 ? Math.round(seconds / 3600) + " h" : Math.round(seconds / 86400) + " days";
}

const words = { good: "good", attention: "needs attention", bad: "bad" };
const badge = (level, text) => make("span", { class: "badge " + level }, text || words[level] || level);
const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

// redraw replaces the children only where they changed, so that the focus and
// a screen reader's place stay where they are.
function redraw(parent, children) {
  const next = document.createElement(parent.tagName);
  next.append(...children);
  if (parent.innerHTML !== next.innerHTML) parent.replaceChildren(...next.childNodes);
}

function news(s) {
  if (s.news.length === 0) return [make("li", { class: "none" }, "All is well: every site answers, every group is served and followed.")];
  return s.news.map((text, i) => make("li", { class: i > 0 ? "" : s.level === "bad" ? "first" : "first mild" }, text));
}

function site(s) {
  const card = make("article", { class: "card is-" + s.level },
    make("div", { class: "head" }, make("h3", {}, s.name), badge(s.witness ? "wait" : s.level, s.state)));
  if (s.why) card.append(make("p", {}, s.why));
  if (s.evidence && !s.why.endsWith(": " + s.evidence)) {
    card.append(make("details", {}, make("summary", {}, "what was found"), make("p", { class: "quiet" }, s.evidence)));
  }
  if (s.witness) {
    card.append(make("p", { class: "quiet" }, "Votes about the sites; holds no records."));
    return card;
  }
  const list = make("dl", {});
  const row = (k, v) => list.append(make("dt", {}, k), make("dd", {}, v));
  row("serves", s.active.length ? s.active.join(", ") : "nothing");
  row("gateways", s.gateways.length ? s.gateways.join(", ") : "none");
  row("mirrors", s.mirrors.length ? s.mirrors.join(", ") : "none");
  for (const v of s.votes || []) row("vote of " + v.observer, v.verdict + (v.verdict === "up" ? "" : " for " + span(v.forSeconds)));
  card.append(list);
  return card;
}

function group(g) {
  const card = make("article", { class: "card is-" + g.level },
    make("div", { class: "head" }, make("h3", {}, g.name), badge(g.level, g.state + (g.epoch ? ", epoch " + g.epoch : ""))));
  card.append(make("p", { class: "doing" }, g.doing));
  if (g.why && g.why !== g.doing) card.append(make("p", {}, g.why));
  card.append(make("dl", { class: "facts" },
    fact("active site", g.active || "none"),
    ...(g.target ? [fact("moving to", g.target)] : []),
    ...(g.since ? [fact("in this state since", new Date(g.since).toLocaleTimeString())] : []),
    fact("unreplicated", g.sites.length < 2 ? "all, there is one site" : g.unreplicated < 0 ? "unknown" : records(g.unreplicated)),
    fact("acknowledged by", g.ackSites === 1 ? "1 site" : g.ackSites + " sites" + (g.degraded ? ", degraded" : "")),
    fact("failover now", g.safe ? "safe" : "not safe"),
    ...(g.last ? [fact("last move", g.last)] : []),
    fact("topics", g.topics.join(", "))));
  const most = Math.max(1, ...g.sites.map((p) => p.behind));
  card.append(make("ul", { class: "places" }, ...g.sites.map((p) => {
    const li = make("li", { class: p.active ? "active" : "" }, make("strong", {}, p.site),
      make("span", { class: p.active ? "role" : "quiet" }, p.active ? "active" : p.behind < 0 ? "unknown" : p.behind === 0 ? "has everything" : records(p.behind) + " behind"));
    if (!p.active && p.behind >= 0) li.append(make("progress", { max: most, value: most - p.behind, "aria-label": p.site + " is " + records(p.behind) + " behind" }));
    return li;
  })));
  return card;
}

// cell names its column too, for narrow screens, where a row is a list.
const cell = (column, ...children) => make("td", { class: "num", "data-column": column }, ...children);

function flow(f) {
  return make("tr", {},
    make("th", { scope: "row" }, f.name),
    make("td", {}, badge(f.level, f.level === "good" ? "follows" : words[f.level]), f.why ? make("div", {}, f.why) : ""),
    cell("Behind", f.behind < 0 ? "unknown" : records(f.behind)),
    cell("Behind for", f.behind === 0 ? "–" : span(f.lagSeconds)),
    cell("Partitions", String(f.partitions)),
    cell("Last heard", f.silentSeconds < 0 ? "never" : span(f.silentSeconds) + " ago"));
}

function show(s) {
  document.body.classList.remove("stale");
  document.title = s.virtualCluster + ": " + s.level + " – Spillway";
  $("name").textContent = s.virtualCluster;
  $("cluster").textContent = "cluster id " + s.clusterID + ", coordinator " + s.coordinator.kind + (s.coordinator.up ? "" : " away");
  $("overall").textContent = words[s.level];
  $("overall").className = "badge " + s.level;
  $("clock").textContent = "as of " + new Date(s.at).toLocaleTimeString();
  redraw($("news"), news(s));
  redraw($("sites"), s.sites.map(site));
  redraw($("groups"), s.groups.map(group));
  redraw($("flows"), s.flows.length ? s.flows.map(flow) : [make("tr", {}, make("td", { colspan: "6", class: "quiet" }, "None: no group has a second site."))]);
}

// stale keeps what was seen last in sight, but not as if it were true now.
function stale(text) {
  document.body.classList.add("stale");
  document.title = text + " – Spillway";
  $("overall").textContent = text;
  $("overall").className = "badge bad";
}

// follow asks once a second, and again one second after the answer, so that a
// slow console is not asked faster than it can tell.
async function follow() {
  try {
    const answer = await fetch("api/status", { cache: "no-store" });
    if (answer.ok) show(await answer.json());
    else stale("nothing was observed yet");
  } catch {
    stale("no connection to the console");
  }
  setTimeout(follow, 1000);
}

follow();
