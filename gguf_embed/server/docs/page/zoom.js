// Zooming and moving a drawing: by its buttons, the keys + − 0, the wheel with Ctrl, and dragging.

const STEP = 1.5;
const PAN = 0.15;
const ZOOM_KEYS = { "+": STEP, "=": STEP, "-": 1 / STEP, "−": 1 / STEP };
const PAN_KEYS = { ArrowLeft: [-PAN, 0], ArrowRight: [PAN, 0], ArrowUp: [0, -PAN], ArrowDown: [0, PAN] };

// `id` is the element, and of its buttons id-in, id-out and id-all. `draw` is called after each change of `view`.
function zoomable(id, most, draw) {
  const element = at(id);
  const zoom = { view: WHOLE, set, reset: () => set(WHOLE), by };
  let waiting = false;
  function set(view) {
    zoom.view = view;
    element.classList.toggle("zoomed", view.scale > 1); // then a finger moves the drawing, else the page
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }
  function by(factor, px = 0.5, py = 0.5) {
    set(zoomedAt(zoom.view, factor, px, py, most));
  }
  at(`${id}-in`).addEventListener("click", () => by(STEP));
  at(`${id}-out`).addEventListener("click", () => by(1 / STEP));
  at(`${id}-all`).addEventListener("click", zoom.reset);
  element.addEventListener("keydown", (event) => zoomByKey(event, zoom));
  element.addEventListener("wheel", (event) => zoomByWheel(event, element, zoom), { passive: false });
  makeDraggable(element, zoom);
  return zoom;
}

function zoomByKey(event, zoom) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ZOOM_KEYS) zoom.by(ZOOM_KEYS[event.key]);
  else if (event.key === "0") zoom.reset();
  else return;
  event.preventDefault();
}

function panByKey(event, zoom) {
  if (!(event.key in PAN_KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  zoom.set(pannedBy(zoom.view, ...PAN_KEYS[event.key]));
}

// A trackpad's pinch is a wheel with Ctrl, too.
function zoomByWheel(event, element, zoom) {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  const box = element.getBoundingClientRect();
  const share = (place, start, size) => (place - start) / size;
  zoom.by(
    Math.exp(-event.deltaY / 200),
    share(event.clientX, box.left, box.width),
    share(event.clientY, box.top, box.height),
  );
}

function makeDraggable(element, zoom) {
  let from = null;
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || zoom.view.scale === 1) return;
    from = event;
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    if (!from) return;
    const box = element.getBoundingClientRect();
    zoom.set(
      pannedBy(zoom.view, (from.clientX - event.clientX) / box.width, (from.clientY - event.clientY) / box.height),
    );
    from = event;
  });
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => (from = null));
}
