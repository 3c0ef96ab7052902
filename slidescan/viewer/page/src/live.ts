/** News of a map that is being written. */

import { eventsUrl } from "./api";
import type { MapInfo, Progress } from "./contract";

export interface News {
  onProgress: (progress: Progress) => void;
  /** The connection is lost; the browser tries again by itself. */
  onSilence: () => void;
}

/** Listen until the map is complete; returns what stops it. A complete map needs no connection. */
export function follow(map: MapInfo, { onProgress, onSilence }: News): () => void {
  if (map.complete) return () => {};
  const source = new EventSource(eventsUrl(map.id));
  source.addEventListener("progress", (event) => {
    const progress = JSON.parse((event as MessageEvent<string>).data) as Progress;
    if (progress.complete) source.close();
    onProgress(progress);
  });
  source.addEventListener("error", onSilence);
  return () => source.close();
}
