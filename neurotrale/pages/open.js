// Leads to the viewer. Sources in the state are relative to the root of the service; only the
// browser knows the address under which it got here, through tunnels, proxies and prefixes.
const { root, viewer, state } = document.body.dataset;
const base = new URL(root, location);
const scene = JSON.parse(state);
for (const layer of scene.layers) {
  layer.source = `precomputed://${new URL(layer.source, base)}`;
}
const target = new URL(viewer, base);
target.hash = `!${encodeURIComponent(JSON.stringify(scene))}`;
location.replace(target);
