/** News of a map that is being written. */

import { eventsUrl } from "./api";
import type { MapInfo, Progress } from "./contract";

export interface News {
  onProgress: (progress: Progress) => void;
  /** The connection is lost; it is tried again. */
  onSilence: () => void;
}

const AGAIN_MS = 5000;

/** Listen until the map is complete; returns what stops it. A complete map needs no connection. */
export function follow(map: MapInfo, { onProgress, onSilence }: News): () => void {
  if (map.complete) return () => {};
  let source: EventSource;
  let timer = 0;
  const listen = () => {
    source = new EventSource(eventsUrl(map.id));
    source.addEventListener("progress", (event) => {
      const progress = JSON.parse((event as MessageEvent<string>).data) as Progress;
      if (progress.complete) source.close();
      onProgress(progress);
    });
    source.addEventListener("error", () => {
      onSilence();
      // A browser tries again after a lost connection, but not after a refusal.
      if (source.readyState === EventSource.CLOSED) timer = window.setTimeout(listen, AGAIN_MS);
    });
  };
  listen();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
