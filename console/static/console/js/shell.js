// What every page has: "/" focuses search, menus close, dialogs open, buttons show they are busy.
(() => {
  "use strict";

  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const field = document.querySelector("[data-search]");
      const typing = event.target.closest("input, textarea, select, [contenteditable]");
      if (field && !typing && field.offsetParent !== null) {
        event.preventDefault();
        field.focus();
        field.select();
      }
    }
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
    }
  });

  // A part that is swapped keeps its folds as they were left.
  let unfolded = [];
  document.addEventListener("htmx:beforeSwap", (event) => {
    const folds = event.detail.target.querySelectorAll("details[id]");
    unfolded = [...folds].filter((one) => one.open).map((one) => one.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of unfolded) {
      const fold = document.getElementById(id);
      if (fold) fold.open = true;
    }
    unfolded = [];
  });

  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
    const opener = event.target.closest("[data-dialog-open]");
    if (opener) {
      const dialog = document.getElementById(opener.dataset.dialogOpen);
      if (dialog) dialog.showModal();
    }
    const closer = event.target.closest("[data-dialog-close]");
    if (closer) closer.closest("dialog").close();
  });

  // <input data-must-equal="name"> keeps the form's submit button off until it holds that name.
  document.addEventListener("input", (event) => {
    const field = event.target.closest("[data-must-equal]");
    if (field) {
      const button = field.form.querySelector("button[type=submit]");
      button.disabled = field.value !== field.dataset.mustEqual;
    }
    const chooser = event.target.closest("[data-submit-on-change]");
    if (chooser && event.target.matches("select")) chooser.requestSubmit();
  });

  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button || event.defaultPrevented || !button.matches(".button")) return;
    window.setTimeout(() => {
      button.disabled = true;
      button.setAttribute("aria-busy", "true");
    }, 0);
  });

  window.addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll(".button[aria-busy=true]")) {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  });
})();
