// A log stays at its end while it grows, until the reader scrolls up.
(() => {
  "use strict";
  const away = new Set(); // ids of logs whose reader has scrolled up

  const follow = () => {
    for (const pre of document.querySelectorAll("[data-log]")) {
      if (!away.has(pre.id)) pre.scrollTop = pre.scrollHeight;
    }
  };

  document.addEventListener("scroll", (event) => {
    const pre = event.target;
    if (!(pre instanceof Element) || !pre.matches("[data-log]")) return;
    const atEnd = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 24;
    if (atEnd) away.delete(pre.id);
    else away.add(pre.id);
  }, true);

  let kept = new Map();
  document.body.addEventListener("htmx:beforeSwap", () => {
    kept = new Map([...document.querySelectorAll("[data-log]")].map((pre) => [pre.id, pre.scrollTop]));
  });
  document.body.addEventListener("htmx:afterSwap", () => {
    for (const pre of document.querySelectorAll("[data-log]")) {
      if (away.has(pre.id) && kept.has(pre.id)) pre.scrollTop = kept.get(pre.id);
    }
    follow();
  });
  follow();
})();
