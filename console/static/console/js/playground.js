// The playground: sends the conversation, shows each answer as it streams, side by side if asked.
(() => {
  "use strict";
  const form = document.querySelector("[data-playground]");
  if (!form) return;
  const turns = document.getElementById("chat-turns");
  const template = document.getElementById("chat-turn");
  const stop = form.querySelector("[data-stop]");
  const send = form.querySelector("button[type=submit]");
  const text = form.dataset;
  let messages = [];
  let flight = null;

  const line = () => {
    const item = document.createElement("li");
    item.className = "chat-line";
    turns.append(item);
    return item;
  };

  const turn = (into, role, who, said) => {
    const item = template.content.firstElementChild.cloneNode(true);
    item.classList.add(role);
    item.querySelector(".who").textContent = who;
    item.querySelector(".said").textContent = said;
    into.append(item);
    item.scrollIntoView({ block: "nearest" });
    return item;
  };

  // The conversation so far as a program would have it.
  const showCode = () => {
    const system = form.elements.system.value.trim();
    const prompt = form.elements.prompt.value.trim();
    const said = system ? [{ role: "system", content: system }, ...messages] : messages.slice();
    if (prompt) said.push({ role: "user", content: prompt });
    document.getElementById("as-code").textContent = [
      "from openai import OpenAI",
      "",
      `client = OpenAI(base_url=${JSON.stringify(text.baseUrl)}, api_key="sk-af-...")`,
      "stream = client.chat.completions.create(",
      `    model=${JSON.stringify(form.elements.model.value)},`,
      `    messages=${JSON.stringify(said, null, 4).replace(/\n/g, "\n    ")},`,
      `    temperature=${Number(form.elements.temperature.value)},`,
      `    max_tokens=${Number(form.elements.max_tokens.value)},`,
      "    stream=True,",
      ")",
      "for event in stream:",
      "    if event.choices:",
      '        print(event.choices[0].delta.content or "", end="")',
    ].join("\n");
  };

  // Server-sent events: yields the JSON of each data line until [DONE].
  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  }

  const ask = async (into, model, history, signal) => {
    const item = turn(into, "assistant", model, "");
    const said = item.querySelector(".said");
    const note = item.querySelector(".note");
    const began = performance.now();
    let first = 0;
    let usage = null;
    item.setAttribute("aria-busy", "true");
    try {
      const body = {
        model,
        messages: history,
        temperature: Number(form.elements.temperature.value),
        max_tokens: Number(form.elements.max_tokens.value),
      };
      const answer = await fetch(form.action, {
        method: "POST",
        signal,
        headers: {
          "Content-Type": "application/json",
          "X-CSRFToken": form.elements.csrfmiddlewaretoken.value,
        },
        body: JSON.stringify(body),
      });
      if (!answer.ok) {
        const problem = await answer.json().catch(() => null);
        throw new Error((problem && problem.error && problem.error.message) || text.textFailed);
      }
      for await (const event of events(answer.body)) {
        if (event.error) throw new Error(event.error.message);
        if (event.usage) usage = event.usage;
        const piece = event.choices && event.choices[0] && event.choices[0].delta.content;
        if (piece) {
          if (!first) first = performance.now() - began;
          said.textContent += piece;
        }
      }
    } catch (problem) {
      if (problem.name === "AbortError") note.textContent = text.textStopped;
      else {
        item.classList.add("bad");
        said.textContent = said.textContent ? `${said.textContent}\n${problem.message}` : problem.message;
        return null;
      }
    } finally {
      item.removeAttribute("aria-busy");
    }
    if (usage) {
      const seconds = (performance.now() - began) / 1000;
      note.textContent = text.textNote
        .replace("{first}", String(Math.round(first)))
        .replace("{seconds}", seconds.toFixed(1))
        .replace("{input}", usage.prompt_tokens.toLocaleString("en"))
        .replace("{output}", usage.completion_tokens.toLocaleString("en"));
    }
    return said.textContent;
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const prompt = form.elements.prompt.value.trim();
    if (!prompt || flight) return;
    document.getElementById("chat-empty").hidden = true;
    const system = form.elements.system.value.trim();
    messages.push({ role: "user", content: prompt });
    turn(line(), "user", text.textYou, prompt);
    form.elements.prompt.value = "";
    const history = system ? [{ role: "system", content: system }, ...messages] : messages.slice();
    const models = [form.elements.model.value];
    const second = form.elements.second && form.elements.second.value;
    if (second && second !== models[0]) models.push(second);
    flight = new AbortController();
    stop.hidden = false;
    send.disabled = true;
    const into = line();
    const answers = await Promise.all(
      models.map((model) => ask(into, model, history, flight.signal)),
    );
    flight = null;
    stop.hidden = true;
    send.disabled = false;
    if (answers[0]) messages.push({ role: "assistant", content: answers[0] });
    else messages.pop(); // an unanswered question is not part of the conversation
    showCode();
    form.elements.prompt.focus();
  });

  form.addEventListener("input", showCode);
  showCode();
  stop.addEventListener("click", () => flight && flight.abort());
  form.querySelector("[data-clear]").addEventListener("click", () => {
    if (flight) flight.abort();
    messages = [];
    turns.replaceChildren();
    document.getElementById("chat-empty").hidden = false;
    showCode();
    form.elements.prompt.focus();
  });
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
})();
