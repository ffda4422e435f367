// The theme switch answers at once; the form behind it tells the server, which remembers.
(() => {
  "use strict";
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-theme-form]");
    if (!form || !event.submitter) return;
    event.preventDefault();
    const choice = event.submitter.value;
    const root = document.documentElement;
    if (choice === "system") delete root.dataset.theme;
    else root.dataset.theme = choice;
    for (const button of form.querySelectorAll("button[name=theme]")) {
      if (button === event.submitter) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    const body = new FormData(form);
    body.set("theme", choice);
    fetch(form.action, { method: "POST", body, redirect: "manual" });
  });
})();
