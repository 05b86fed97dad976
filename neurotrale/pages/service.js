// What the pages share: asking the service, and making elements.

/** Ask for JSON; wait and ask again while the service is busy. */
export async function ask(url, options = {}) {
  for (let attempt = 0; ; attempt++) {
    const answer = await fetch(url, options);
    if (answer.status === 503 && attempt < 8) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (1 + attempt / 2)));
      continue;
    }
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      throw new Error(body.description || `The service answered ${answer.status}.`);
    }
    return body;
  }
}

/** Make an element with attributes and children; texts are never read as HTML. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Run at most so many tasks at once, the first come first. */
export function queue(most) {
  const waiting = [];
  let running = 0;
  const next = () => {
    while (running < most && waiting.length) {
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

/** Write a count. */
export const count = (value) => numbers.format(value);

/** Write a count with its noun. */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Make the bar that says how many annotations are reviewed. */
export function reviewed(done, of, what) {
  const percent = of ? Math.floor((100 * done) / of) : 0;
  return element(
    "span",
    { class: "review" },
    element("progress", { max: of || 1, value: done, "aria-label": `${what}: reviewed` }),
    ` ${count(done)} of ${count(of)} reviewed (${percent} %)`,
  );
}
