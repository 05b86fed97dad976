// Fills in the data sets as they scroll into view, and finds them by name.
import { ask, count, counted, element, queue, reviewed } from "./service.js";

const facts = document.body.dataset;
const items = [...document.querySelectorAll(".dataset")];
const enqueue = queue(3);

const times = (numbers) => numbers.map((n) => Number(n.toPrecision(4))).join(" × ");

function pathOf(item) {
  const link = item.querySelector("h2 a");
  return link ? link.getAttribute("href").replace(/^\.\//, "").replace(/\/$/, "") : "";
}

function term(list, name, ...values) {
  list.append(element("div", {}, element("dt", {}, name), element("dd", {}, ...values)));
}

function chunks(levels) {
  const shapes = new Set(levels.map((level) => times(level.chunk_vx)));
  const how = new Set(levels.map((level) => level.encoding + (level.sharded ? ", sharded" : "")));
  return `${[...shapes].join(" or ")} voxels, ${[...how].join(" or ")}`;
}

function describeVolume(list, volume) {
  if (volume.size_vx) {
    term(list, "Size", `${volume.size_vx.map(count).join(" × ")} voxels`);
    term(list, "Extent", `${times(volume.size_mm)} mm`);
    const um = volume.voxel_nm.map((nm) => nm / 1000);
    term(list, "Voxel", `${times(um)} µm`);
  }
  const channels = volume.channels === 1 ? "" : `, ${counted(volume.channels, "channel")}`;
  const labels = volume.type === "segmentation" ? " segmentation" : "";
  term(list, "Data", `${volume.data_type}${labels}${channels}`);
  term(list, "Levels", count(volume.levels.length));
  if (volume.levels.length) term(list, "Chunks", chunks(volume.levels));
}

function describeAnnotations(item, annotations) {
  const section = element("div", { class: "annotations" });
  if (annotations.count) {
    section.append(reviewed(annotations.reviewed, annotations.count, "All annotations"));
    const rows = annotations.kinds.map((kind) => {
      const name = [kind.anntype, kind.type].filter(Boolean).join(", ") || "no type";
      return element("li", {}, element("span", {}, name), reviewed(kind.reviewed, kind.count, name));
    });
    const named = counted(annotations.kinds.length, "kind");
    const inFiles = counted(annotations.files, "file");
    section.append(
      element("details", {}, element("summary", {}, `${named} in ${inFiles}`), element("ul", { class: "kinds" }, ...rows)),
    );
  } else {
    section.append(element("span", {}, "No annotations yet"));
  }
  if (annotations.damaged.length) {
    const what = `Damaged: ${annotations.damaged.slice(0, 5).join(", ")}`;
    section.append(element("p", { class: "problem" }, what));
  }
  item.append(section);
}

function addLinks(item, path, about) {
  const links = element("nav", { class: "links", "aria-label": about.name || "The data root" });
  const add = (text, href, kind = "") => links.append(element("a", { href, class: kind }, text));
  const api = path ? `api/datasets/${path}` : "api/datasets";
  if (facts.viewer === "true") add("Open", `${api}/open`, "first");
  if (facts.ui === "true") add("Open in NeuroTrALE", `${api}/open?in=ui`);
  if (path) add("Files", `${path.includes(":") ? "./" : ""}${path}/`);
  if (about.annotations) add("History", `${api}/history`);
  add("API", api);
  item.append(links);
}

function addPicture(item, path, about) {
  const frame = element("div", { class: "picture" });
  if (about.preview) {
    const src = `${path ? `api/datasets/${path}` : "api/datasets"}/preview.png`;
    const picture = element("img", { src, alt: "", loading: "lazy", decoding: "async" });
    // Once more, as the service may have been busy.
    picture.addEventListener("error", () => {
      if (picture.src.endsWith("?")) picture.remove();
      else setTimeout(() => (picture.src = `${src}?`), 2000);
    });
    frame.append(picture);
  }
  item.prepend(frame);
}

async function fill(item) {
  const path = pathOf(item);
  item.setAttribute("aria-busy", "true");
  try {
    const about = await ask(path ? `api/datasets/${path}` : "api/datasets");
    const list = element("dl");
    if (about.volume) describeVolume(list, about.volume);
    else term(list, "Data", "annotations only");
    item.append(list);
    addPicture(item, path, about);
    if (about.annotations) describeAnnotations(item, about.annotations);
    addLinks(item, path, about);
  } catch (error) {
    item.append(element("p", { class: "problem" }, error.message));
  }
  item.removeAttribute("aria-busy");
  item.classList.add("filled");
}

const observer = new IntersectionObserver(
  (seen) => {
    for (const { isIntersecting, target } of seen) {
      if (isIntersecting) {
        observer.unobserve(target);
        enqueue(() => fill(target));
      }
    }
  },
  { rootMargin: "200px" },
);
items.forEach((item) => observer.observe(item));

// --- finding ---

const search = document.getElementById("search");
const found = document.getElementById("found");

function find() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of items) {
    const name = item.querySelector("h2").textContent.toLowerCase();
    item.hidden = !words.every((word) => name.includes(word));
    shown += !item.hidden;
  }
  found.textContent = words.length ? `${count(shown)} of ${count(items.length)}` : "";
}

if (search) {
  found.textContent = items.length > 20 ? counted(items.length, "data set") : "";
  search.addEventListener("input", find);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search) {
      search.value = "";
      find();
    } else if (event.key === "Enter" && event.target === search) {
      items.find((item) => !item.hidden)?.querySelector("a")?.focus();
    }
  });
}
