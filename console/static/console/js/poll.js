// Parts marked data-poll-seconds ask for themselves again, each at its own pace, as long as the
// page is looked at. The server sets the pace with each answer: quick while something moves. A
// part with focus inside, or an open dialog, waits, so that nothing jumps under a person's hands.
(() => {
  "use strict";
  const due = new Map(); // by id: a part that was swapped keeps its place in time
  const offline = document.getElementById("offline");

  const busy = (part) => {
    const chosen = document.getSelection();
    return (
      part.querySelector("dialog[open]") !== null ||
      (part.contains(document.activeElement) &&
        document.activeElement.matches("input, select, textarea")) ||
      (!chosen.isCollapsed && part.contains(chosen.anchorNode))
    );
  };

  const look = (atOnce) => {
    if (document.visibilityState !== "visible") return;
    const now = Date.now();
    for (const part of document.querySelectorAll("[data-poll-seconds]")) {
      const pace = Number(part.dataset.pollSeconds) * 1000;
      if (!(pace > 0)) continue;
      if (!due.has(part.id)) due.set(part.id, now + pace);
      if (busy(part) || (!atOnce && due.get(part.id) > now)) continue;
      due.set(part.id, now + pace);
      window.htmx.trigger(part, "poll");
    }
  };

  window.setInterval(() => look(false), 250);
  document.addEventListener("visibilitychange", () => look(true));

  // Whoever reads keeps the place: the same link or button of the new part has focus, what was
  // unfolded stays so, what was scrolled aside too. What changed is said as well: the text of
  // [data-announce], when a swap made it another.
  const said = (part) => {
    const mark = part.querySelector("[data-announce]");
    return mark ? mark.textContent.trim() : "";
  };
  const announce = document.getElementById("announce");

  const focusable = "a[href], button, summary, [tabindex]";
  const sideways = ".table-wrap, .code pre";
  const kept = new Map(); // by the id of a part: how it was left
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    if (!event.detail.shouldSwap || !part.id) return;
    kept.set(part.id, {
      said: said(part),
      focus: part.contains(document.activeElement)
        ? [...part.querySelectorAll(focusable)].indexOf(document.activeElement)
        : -1,
      open: [...part.querySelectorAll("details")].map((one) => one.open),
      aside: [...part.querySelectorAll(sideways)].map((one) => one.scrollLeft),
    });
  });
  document.body.addEventListener("htmx:afterSettle", (event) => {
    const part = document.getElementById(event.detail.target.id) || event.detail.elt;
    const was = kept.get(part.id);
    if (!was) return;
    kept.delete(part.id);
    const now = said(part);
    if (announce && now && now !== was.said) announce.textContent = now;
    const folds = part.querySelectorAll("details");
    if (folds.length === was.open.length) folds.forEach((one, at) => { one.open = was.open[at]; });
    const wide = part.querySelectorAll(sideways);
    if (wide.length === was.aside.length) wide.forEach((one, at) => { one.scrollLeft = was.aside[at]; });
    const same = was.focus < 0 ? null : part.querySelectorAll(focusable)[was.focus];
    if (same) same.focus({ preventScroll: true });
  });

  const lost = (yes) => { if (offline) offline.hidden = !yes; };
  document.body.addEventListener("htmx:sendError", () => lost(true));
  document.body.addEventListener("htmx:afterOnLoad", () => lost(false));
  window.addEventListener("offline", () => lost(true));
  window.addEventListener("online", () => { lost(false); look(true); });

  // A session that ended answers a partial with the sign-in page: go there as a whole.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const at = new URL(event.detail.xhr.responseURL || window.location.href);
    if (at.pathname.startsWith("/accounts/")) {
      event.detail.shouldSwap = false;
      window.location.assign(window.location.href);
    }
  });
})();
