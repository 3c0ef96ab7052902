/** Stripes for what cannot be read. */

const SIDE = 16;
let tile: HTMLCanvasElement | null = null;

function stripes(): HTMLCanvasElement {
  if (tile) return tile;
  tile = document.createElement("canvas");
  tile.width = tile.height = SIDE;
  const context = tile.getContext("2d") as CanvasRenderingContext2D;
  context.fillStyle = "#f1f1f1";
  context.fillRect(0, 0, SIDE, SIDE);
  context.strokeStyle = "#b3261e";
  context.lineWidth = 2;
  context.beginPath();
  for (const shift of [-SIDE, 0, SIDE]) {
    context.moveTo(shift - 2, SIDE + 2);
    context.lineTo(shift + SIDE + 2, -2);
  }
  context.stroke();
  return tile;
}

export function hatch(
  context: CanvasRenderingContext2D, x: number, y: number, width: number, height: number,
): void {
  context.save();
  context.fillStyle = context.createPattern(stripes(), "repeat") as CanvasPattern;
  context.fillRect(x, y, width, height);
  context.restore();
}
