// Runs a generator of the pure files in slices, so that the page stays responsive meanwhile.

const SLICE_MS = 30;

async function inSlices(steps, signal) {
  let start = performance.now();
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
    if (performance.now() - start < SLICE_MS) continue;
    await new Promise((goOn) => setTimeout(goOn));
    signal?.throwIfAborted();
    start = performance.now();
  }
}
