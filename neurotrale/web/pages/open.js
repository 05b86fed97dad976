// Opens the viewer. Sources in the state are relative; only the browser knows the address that it
// used to get here, through tunnels, proxies and prefixes.
const { viewer, sources, state, mine, outer, name } = document.body.dataset;
const base = new URL(sources, location);
const viewerState = JSON.parse(state);
for (const layer of viewerState.layers) {
  layer.source = `precomputed://${new URL(layer.source, base)}`;
}
// The scale assumes a window of 1280 x 800 pixels.
if (viewerState.crossSectionScale) viewerState.crossSectionScale *= Math.max(1280 / innerWidth, 800 / innerHeight);
// The page of the datasets then links to what became of the saves.
try {
  if (mine) localStorage.setItem(`mine:${new URL(outer, location).pathname}${name}`, new URL(mine, location).href);
} catch {
  // Without storage there is no link.
}
const target = new URL(viewer, location);
target.hash = `!${encodeURIComponent(JSON.stringify(viewerState))}`;
location.replace(target);
