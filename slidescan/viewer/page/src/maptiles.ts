/** The values of one map: tiles of float32, fetched when they are needed, replaced while a scan runs. */

import { mapTileUrl, Refused, request } from "./api";
import type { MapInfo, Progress } from "./contract";

export interface Values {
  rows: number;
  columns: number;
  /** NaN where nothing was scanned. */
  p: Float32Array;
  /** Share of a coarse cell that was scanned, 0 to 255. */
  coverage: Uint8Array;
}

interface Tile {
  values: Values | null;
  /** Why the tile cannot be shown. */
  damage: string | null;
  stale: boolean;
  loading: boolean;
  used: number;
}

const KEPT = 256; // tiles of 256 x 256 cells at 5 bytes: 84 MB
const AT_ONCE = 4; // browsers open six connections to a server; the slide's tiles need some too
const FAILED_MS = 4000;

export class MapTiles {
  /** Grows with each tile that arrives. */
  revision = 0;
  onArrival: () => void = () => {};
  onDamage: (reason: string) => void = () => {};
  version: number;
  private tiles = new Map<string, Tile>();
  private queue: string[] = [];
  private running = 0;
  private clock = 0;

  constructor(readonly map: MapInfo) {
    this.version = map.version;
  }

  get coarsest(): number {
    return this.map.levels.length - 1;
  }

  /** The tile, as far as it is known, and a request for what is missing of it. */
  tile(level: number, column: number, row: number): Tile {
    const tile = this.peek(level, column, row, true) as Tile;
    if (!tile.loading && (tile.stale || (!tile.values && !tile.damage))) {
      const key = `${level}/${column}_${row}`;
      tile.loading = true;
      this.queue.push(key);
      queueMicrotask(() => this.next());
    }
    return tile;
  }

  peek(level: number, column: number, row: number, make = false): Tile | undefined {
    const key = `${level}/${column}_${row}`;
    let tile = this.tiles.get(key);
    if (!tile && make) {
      tile = { values: null, damage: null, stale: false, loading: false, used: 0 };
      this.tiles.set(key, tile);
    }
    if (tile) tile.used = ++this.clock;
    return tile;
  }

  /** Level-0 value of a cell: NaN where not scanned, undefined where its tile is not here. */
  value(row: number, column: number): number | undefined {
    const size = this.map.tile_cells;
    const tile = this.tiles.get(`0/${Math.floor(column / size)}_${Math.floor(row / size)}`);
    const values = tile?.values;
    if (!values || tile.stale) return undefined;
    return values.p[(row % size) * values.columns + (column % size)];
  }

  /** Cells have changed: their tiles on every level are fetched again when they are next drawn. */
  refresh({ version, boxes }: Progress): void {
    if (version === this.version) return;
    this.version = version;
    for (const [key, tile] of this.tiles) {
      const [level, place] = key.split("/") as [string, string];
      const [column, row] = place.split("_").map(Number) as [number, number];
      const side = this.map.tile_cells * 2 ** Number(level);
      const touched = ([row0, column0, row1, column1]: [number, number, number, number]) =>
        row1 > row * side && row0 < (row + 1) * side &&
        column1 > column * side && column0 < (column + 1) * side;
      if (boxes.length === 0 || boxes.some(touched)) {
        tile.stale = true;
        tile.damage = null;
      }
    }
  }

  /** Fetch the newest request first: it is what the reader looks at now. */
  private next(): void {
    while (this.running < AT_ONCE && this.queue.length) {
      const key = this.queue.pop() as string;
      const tile = this.tiles.get(key);
      if (tile) void this.fetch(key, tile);
    }
  }

  private async fetch(key: string, tile: Tile): Promise<void> {
    const [level, place] = key.split("/") as [string, string];
    const [column, row] = place.split("_").map(Number) as [number, number];
    this.running++;
    tile.stale = false;
    try {
      const response = await request(
        mapTileUrl(this.map.id, Number(level), column, row, this.version));
      tile.values = await unpack(response);
      tile.damage = null;
    } catch (error) {
      this.failed(tile, error);
    } finally {
      this.running--;
      tile.loading = false;
      this.forget();
      this.revision++;
      this.onArrival();
      this.next();
    }
  }

  private failed(tile: Tile, error: unknown): void {
    tile.damage = error instanceof Error ? error.message : String(error);
    this.onDamage(tile.damage);
    const passing = !(error instanceof Refused) || error.status === 0;
    if (!passing) return;
    setTimeout(() => {
      tile.damage = null; // the server may be back
      this.revision++;
      this.onArrival();
    }, FAILED_MS);
  }

  /** Drop what was drawn longest ago; the coarsest level stays, it stands in for what is missing. */
  private forget(): void {
    if (this.tiles.size <= KEPT) return;
    const old = [...this.tiles]
      .filter(([key, tile]) => !tile.loading && !key.startsWith(`${this.coarsest}/`))
      .sort(([, a], [, b]) => a.used - b.used);
    for (const [key] of old.slice(0, this.tiles.size - KEPT)) this.tiles.delete(key);
  }
}

async function unpack(response: Response): Promise<Values> {
  const rows = Number(response.headers.get("X-Rows"));
  const columns = Number(response.headers.get("X-Columns"));
  const bytes = await response.arrayBuffer();
  const cells = rows * columns;
  if (!cells || bytes.byteLength !== cells * 5)
    throw new Refused(502, `A tile of the map has ${bytes.byteLength} bytes, not ${cells * 5}`);
  return {
    rows,
    columns,
    p: new Float32Array(bytes, 0, cells),
    coverage: new Uint8Array(bytes, cells * 4, cells),
  };
}
