"use strict";
// What the page of a run at work does besides: it is told once a second how the run goes, fetches
// the picture anew when there is a new one, and hands on orders.
(() => {
  const { make, count, duration, say, renew } = globalThis.syncshift;
  const find = (selector, within = document) => within.querySelector(selector);
  const here = location.href.split("#")[0];
  const now = find("section.now");
  let picture = Number(now.dataset.picture), ended = now.dataset.atWork === "no", fetching = false;

  // ------------------------------------------------------------------------------ the picture

  const known = new Map();
  const key = (section) => section.getAttribute("aria-labelledby");
  const sections = (within) => [...within.querySelectorAll("main > section:not(.now)")];
  for (const section of sections(document)) known.set(key(section), null);

  // What was opened stays open, and what has the focus keeps it.
  const keep = (from, to) => {
    const before = [...from.querySelectorAll("details")];
    [...to.querySelectorAll("details")].forEach((one, at) => { if (before[at]) one.open = before[at].open; });
    const places = "summary, button, [tabindex]";
    const at = [...from.querySelectorAll(places)].indexOf(document.activeElement);
    return at < 0 ? () => {} : () => { const same = to.querySelectorAll(places)[at]; if (same) same.focus({ preventScroll: true }); };
  };
  const put = (section, old) => {
    const made = document.importNode(section, true);
    for (const figure of made.querySelectorAll("figure[data-chart]")) {
      const drawn = old && find(`#${CSS.escape(find("h3", figure).id)}`, old);
      const live = drawn && find(".live", drawn.closest("figure"));
      if (live) find(".live", figure).replaceWith(live);
    }
    const focus = old ? keep(old, made) : () => {};
    if (old) old.replaceWith(made); else find("main").append(made);
    focus();
    return made;
  };
  const show = (page) => {
    const fresh = find("section.now", page);
    if (Number(fresh.dataset.picture) < picture) return;
    picture = Number(fresh.dataset.picture);
    document.title = page.title;
    const head = find("header.page", page);
    if (find("header.page").innerHTML !== head.innerHTML) {
      const verdict = find("#verdict").textContent;
      find("header.page").replaceChildren(...document.importNode(head, true).childNodes);
      if (find("#verdict").textContent !== verdict) say(`${find("#verdict").textContent}: ${find("#sentence").textContent}`);
    }
    document.body.dataset.verdict = page.body.dataset.verdict;
    const there = new Map(sections(document).map((section) => [key(section), section]));
    let last = now;
    for (const section of sections(page)) {
      const name = key(section), html = section.outerHTML;
      let old = there.get(name);
      there.delete(name);
      if (!old || known.get(name) !== html) old = put(section, old);
      if (last.nextElementSibling !== old) last.after(old);
      last = old;
      known.set(name, html);
    }
    for (const [name, section] of there) { section.remove(); known.delete(name); }
    renew(JSON.parse(find("#data", page).textContent));
  };
  const look = async () => {
    if (fetching) return;
    fetching = true;
    let text = null;
    try {
      const answer = await fetch(here, { cache: "no-store" });
      if (answer.ok) text = await answer.text();
    } catch { /* the stream says that the server is gone */ }
    fetching = false;
    if (text !== null) show(new DOMParser().parseFromString(text, "text/html"));
  };

  // ---------------------------------------------------------------------------------- the pulse

  const told = (name, text) => {
    const place = find(`[data-now="${name}"]`);
    if (place.textContent !== text) place.textContent = text;
  };
  const beat = (pulse) => {
    find("#progress").max = pulse.rows || 1;
    find("#progress").value = pulse.settled;
    told("settled", `${pulse.settled.toLocaleString("en")} of ${count(pulse.rows, "row")}`);
    told("rate", pulse.rate === null ? "" : `${pulse.rate.toLocaleString("en", { maximumFractionDigits: 1 })} rows a second`);
    told("in_flight", pulse.in_flight === null ? "" : `${pulse.in_flight} in flight`);
    told("followed", pulse.followed ? `${pulse.followed.toLocaleString("en")} followed` : "");
    const rest = pulse.rows - pulse.settled;
    told("left", pulse.rate && rest && !pulse.waiting.length ? `about ${duration(rest / pulse.rate)} left` : "");
    const reasons = JSON.stringify(pulse.waiting.map((one) => [one.reason, one.detail, one.until]));
    const list = find("#waiting");
    if (list.dataset.told !== reasons) {
      list.dataset.told = reasons;
      list.replaceChildren(...pulse.waiting.map((one) => make("li", {}, make("b", {}, one.reason), " ",
        make("bdi", {}, one.detail), one.until ? ` until ${one.until.slice(11, 19)} UTC` : "")));
    }
    find("#stopping").textContent = pulse.stopping ?? "";
    find("#going").hidden = !pulse.at_work;
    find("#orders").hidden = !(pulse.at_work && pulse.heeds);
    for (const input of document.querySelectorAll("[data-limit]")) {
      if (pulse.limits) input.placeholder = pulse.limits[input.dataset.limit] ?? "none";
    }
    find("#link").textContent = "";
    if (pulse.picture > picture) look();
  };

  const follow = () => {
    const stream = new EventSource(`${here.replace(/[?].*/, "")}events`);
    stream.addEventListener("pulse", (event) => beat(JSON.parse(event.data)));
    stream.addEventListener("ended", async (event) => {
      stream.close();
      beat(JSON.parse(event.data));
      find("#orders").hidden = true;
      while (fetching) await new Promise((done) => { setTimeout(done, 50); });
      await look();
      ended = true;
      now.dataset.atWork = "no";
    });
    stream.addEventListener("error", () => {
      if (!ended) find("#link").textContent = "The server of this page does not answer. The run goes on without it; so does this page, once it is back.";
    });
  };

  // ---------------------------------------------------------------------------------- the orders

  const reply = find("#reply");
  const order = async (given) => {
    const reason = find("#reason").value.trim();
    try {
      const answer = await fetch(`${here.replace(/[?].*/, "")}orders`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify(reason ? { ...given, reason } : given),
      });
      const found = await answer.json();
      reply.textContent = found.said;
      if (found.done) for (const input of document.querySelectorAll("#orders input")) input.value = "";
    } catch {
      reply.textContent = "The order did not arrive.";
    }
  };
  const limits = () => {
    const given = {};
    for (const input of document.querySelectorAll("[data-limit]")) {
      const text = input.value.trim();
      if (text) given[input.dataset.limit] = text;
    }
    return given;
  };
  for (const button of document.querySelectorAll("[data-order]")) {
    const name = button.textContent;
    let sure = 0;
    button.addEventListener("click", () => {
      if (button.dataset.sure && !sure) {
        // Once more, for what cannot be taken back.
        button.textContent = button.dataset.sure;
        sure = setTimeout(() => { button.textContent = name; sure = 0; }, 4000);
        return;
      }
      clearTimeout(sure);
      sure = 0;
      button.textContent = name;
      order(button.dataset.order === "set" ? { command: "set", ...limits() } : { command: button.dataset.order });
    });
  }
  find("#orders").addEventListener("submit", (event) => event.preventDefault());

  if (!ended) follow();
})();
