// Leads to the viewer. Sources in the state are relative to the root of the service; only the
// browser knows the address under which it got here, through tunnels, proxies and prefixes.
const { root, viewer, state } = document.body.dataset;
const base = new URL(root, location);
const scene = JSON.parse(state);
for (const layer of scene.layers) {
  layer.source = `precomputed://${new URL(layer.source, base)}`;
}
// The scale is made for a window of 1280 x 800 pixels.
if (scene.crossSectionScale) scene.crossSectionScale *= Math.max(1280 / innerWidth, 800 / innerHeight);
const target = new URL(viewer, base);
target.hash = `!${encodeURIComponent(JSON.stringify(scene))}`;
location.replace(target);
