// Lets the viewer run by itself. The built one is made to be led by a Python program: it reads the
// address of that program from its own, `/v/{session}`, and listens to its events. Here is no such
// program, and the viewer's state stands in the URL.
// The block keeps its names from the viewer's scripts.
{
  const own = location.pathname;

  function showOwnAddress() {
    if (location.pathname !== own) history.replaceState(null, "", own + location.hash);
  }

  // Connected at once, silent for ever.
  window.EventSource = class extends EventTarget {
    constructor() {
      super();
      showOwnAddress();
      setTimeout(() => this.onopen?.(new Event("open")));
    }
    close() {}
  };

  // What the viewer loads lies beside its page, not beside the address that it sees.
  const base = document.createElement("base");
  base.href = location.origin + own;
  document.head.prepend(base);

  // Without a state in the URL the viewer would keep its own to itself.
  const hash = location.hash.startsWith("#!") ? location.hash : "#!%7B%7D";
  history.replaceState(null, "", `${own.replace(/\/+$/, "")}/v/here/${hash}`);
  addEventListener("load", showOwnAddress);
}
