// Helpers shared by the pages: requests to the service, and elements.

/** Fetch JSON; retry while the service is busy. */
export async function ask(url, options = {}) {
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(url, options);
    if (response.status === 503 && attempt < 8) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (1 + attempt / 2)));
      continue;
    }
    const body = await response.json().catch(() => ({}));
    if (!response.ok) {
      throw new Error(body.description || `The service answered ${response.status}.`);
    }
    return body;
  }
}

/** Create an element with attributes and children; text is never parsed as HTML. */
export function element(name, attributes = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) created.setAttribute(key, "");
    else if (value !== false && value != null) created.setAttribute(key, value);
  }
  created.append(...children.filter((child) => child != null));
  return created;
}

/** Return a function that queues tasks; a limited number of them run at once, in order. */
export function queue(limit) {
  const waiting = [];
  let running = 0;
  const next = () => {
    while (running < limit && waiting.length) {
      running++;
      waiting.shift()().finally(() => {
        running--;
        next();
      });
    }
  };
  return (task) => {
    waiting.push(task);
    next();
  };
}

const numbers = new Intl.NumberFormat("en-US");

/** Format a count. */
export const count = (value) => numbers.format(value);

/** Format a count with its noun. */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Create the bar that shows how many annotations are reviewed. */
export function reviewed(done, total, label) {
  const percent = total ? Math.floor((100 * done) / total) : 0;
  return element(
    "span",
    { class: "review" },
    element("progress", { max: total || 1, value: done, "aria-label": `${label}: reviewed` }),
    ` ${count(done)} of ${count(total)} reviewed (${percent} %)`,
  );
}
