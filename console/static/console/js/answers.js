// Reading answers by keyboard: j and k go from line to line, n and p from page to page.
(() => {
  "use strict";
  const lines = [...document.querySelectorAll(".answer")];
  const go = (step) => {
    const at = lines.indexOf(document.activeElement.closest(".answer"));
    const next = lines[at < 0 ? 0 : Math.min(Math.max(at + step, 0), lines.length - 1)];
    if (next) next.focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, [contenteditable]")) return;
    const page = { n: "next", p: "prev" }[event.key];
    if (event.key === "j") go(1);
    else if (event.key === "k") go(-1);
    else if (page) document.querySelector(`a[rel="${page}"]`)?.click();
  });
})();
