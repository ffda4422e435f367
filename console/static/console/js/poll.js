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

  // Whoever goes by keyboard keeps the place: the same link or button of the new part has focus.
  // What changed is said as well: the text of [data-announce], when a swap made it another.
  const said = (part) => {
    const mark = part.querySelector("[data-announce]");
    return mark ? mark.textContent.trim() : "";
  };
  let before = "";
  const announce = document.getElementById("announce");

  const focusable = "a[href], button, summary, [tabindex]";
  let place = -1;
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    before = said(part);
    place = part.contains(document.activeElement)
      ? [...part.querySelectorAll(focusable)].indexOf(document.activeElement)
      : -1;
  });
  document.body.addEventListener("htmx:afterSettle", (event) => {
    const part = document.getElementById(event.detail.target.id) || event.detail.elt;
    const now = said(part);
    if (announce && now && now !== before) announce.textContent = now;
    if (place < 0) return;
    const same = part.querySelectorAll(focusable)[place];
    if (same) same.focus({ preventScroll: true });
    place = -1;
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
