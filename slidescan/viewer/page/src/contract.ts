/** What the server answers. Positions are level-0 px of the slide unless a name ends in _um. */

export type Box = [x: number, y: number, width: number, height: number];
export type Point = [x: number, y: number];
/** A ring and the rings of its holes. */
export type Polygon = Point[][];

export interface MapSummary {
  id: string;
  name: string;
  complete: boolean;
  highest: number | null;
  tissue_mm2: number | null;
}

export interface SlideSummary {
  id: string;
  name: string;
  state: "ok" | "error";
  error?: string;
  thumbnail: string | null;
  maps: MapSummary[];
}

export interface Listing {
  title: string;
  folder: boolean;
  slides: SlideSummary[];
  warnings?: string[];
}

export interface MapInfo {
  id: string;
  name: string;
  model: string;
  rows: number;
  columns: number;
  /** Height and width of a cell. */
  cell_l0: [number, number];
  tile_cells: number;
  /** Finest first; a cell of level k covers 2^k x 2^k cells. */
  levels: { rows: number; columns: number }[];
  complete: boolean;
  stride_px: number;
  mpp: number;
  thresholds: Record<string, number>;
  cell_mm2: number;
  tissue_cells: number;
  version: number;
  warnings: string[];
  settings: Record<string, unknown>;
}

export interface Slide {
  id: string;
  name: string;
  width: number;
  height: number;
  bounds: Box | null;
  mpp: [y: number, x: number] | null;
  objective?: number | null;
  tile_px: number;
  /** Coarsest first; each is half of the next, rounded up. */
  levels: { width: number; height: number }[];
  maps: MapInfo[];
  annotations: { id: string; name: string }[];
  warnings: string[];
}

export interface Histogram {
  version: number;
  edges: number[];
  counts: number[];
}

export interface CellValue {
  row: number;
  column: number;
  p: number | null;
  x_um: number | null;
  y_um: number | null;
}

export interface PatchAnswer {
  row: number;
  column: number;
  map_p: number;
  patch_p: number;
  difference: number;
  box: Box;
}

export interface Region {
  number: number;
  box: Box;
  centroid: Point;
  area_mm2: number;
  highest: number;
  mean: number;
  major_axis_um: number;
  size_class: string;
  outline: Polygon;
}

export interface Regions {
  threshold: number;
  regions: Region[];
}

export interface Annotation {
  class: string;
  colour: string | null;
  rings: Polygon;
}

export interface Progress {
  version: number;
  done: number;
  total: number;
  seconds_left: number | null;
  complete: boolean;
  /** Changed cells. */
  boxes: [row0: number, column0: number, row1: number, column1: number][];
}
