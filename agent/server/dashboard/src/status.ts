/** What `GET /_status` tells; whatever a server does not know is missing. */

export interface Direction {
  readonly state: string;
  readonly last_error: string | null;
  readonly retry_at: string | null;
  readonly pending: number | null;
  readonly last_confirmed: string | null;
  readonly lag: number | null;
  readonly docs_read: number;
  readonly docs_written: number;
  readonly doc_write_failures: number;
  readonly rate?: number | null;
  readonly bytes_rate?: number | null;
  readonly backlog_seconds?: number | null;
  readonly drain_seconds?: number | null;
  readonly errors?: number;
}

/** How the latest verification ended; `error` is why the one after that has not. */
export interface Verified {
  readonly time: string | null;
  readonly by: string;
  readonly documents: number;
  readonly different: number;
  readonly error: string | null;
}

export interface Remote {
  readonly name: string;
  readonly url: string;
  readonly bytes_sent?: number;
  readonly bytes_received?: number;
  readonly verified?: Verified | null;
  readonly push?: Direction;
  readonly pull?: Direction;
}

export interface DeviceSensor {
  readonly name: string;
  readonly readings: number;
  readonly rate: number;
  /** Frames were missing so often; null where frames have no numbers. */
  readonly gaps: number | null;
  readonly errors: number;
  readonly last_value: unknown;
  readonly quality: string | null;
  readonly unit: string | null;
  readonly last_time: string | null;
  readonly alarms?: readonly string[];
}

export interface Device {
  readonly name: string;
  readonly port: string;
  readonly adapter: string;
  readonly state: string;
  readonly last_error: string | null;
  readonly errors: number;
  readonly missing: number;
  readonly sensors: readonly DeviceSensor[];
}

export interface Hook {
  readonly name: string;
  /** null: not everybody is told. */
  readonly database: string | null;
  readonly target: string;
  readonly state: string;
  readonly pending: number | null;
  readonly processed: number;
  readonly failed: number;
  /** Documents that were given up. */
  readonly dead: number;
  readonly last_error: string | null;
  readonly retry_at: string | null;
}

export interface Gateway {
  readonly name: string;
  readonly status: string;
  readonly version: string | null;
  readonly since: string | null;
  readonly lag?: number | null;
  readonly backlog?: number | null;
  readonly conflicts?: number | null;
}

export interface Attention {
  readonly level: "warning" | "error";
  readonly what: string;
  readonly do: string;
  /** Where one can act: a page of this dashboard, as a path. */
  readonly page?: string;
}

export interface System {
  readonly memory_rss?: number;
  readonly disk_free?: number;
  readonly disk_total?: number;
  readonly bytes_written?: number;
  readonly load?: number | readonly number[];
}

/** A stage of the data: how much went through it since the start, and per second. */
export interface Stage {
  readonly count: number;
  readonly rate: number | null;
}

export const STAGES = ["detect", "transfer", "confirm", "process"] as const;
export type Stages = Readonly<Record<(typeof STAGES)[number], Stage>>;

export interface Status {
  readonly version: string;
  readonly name?: string;
  readonly data?: string;
  readonly uptime: number;
  readonly started?: string;
  readonly database?: {
    readonly name: string;
    readonly doc_count: number;
    readonly conflicts: number;
    readonly file_size: number;
  };
  readonly devices?: readonly Device[];
  readonly remotes?: readonly Remote[];
  readonly gateways?: readonly Gateway[];
  readonly upstreams?: readonly { readonly name: string; readonly url: string }[];
  readonly pipeline?: Stages;
  readonly system?: System;
  readonly attention?: readonly Attention[];
  readonly conflicts?: {
    readonly present: number;
    /** Documents in conflict by database; for administrators. */
    readonly databases?: Readonly<Record<string, number>>;
  };
  readonly hooks?: readonly Hook[];
  readonly mqtt?: { readonly broker: string; readonly state: string };
}

export const DIRECTIONS = ["push", "pull"] as const;

/** All directions of all remotes. */
export function directions(
  status: Status,
): { remote: Remote; way: "push" | "pull"; direction: Direction }[] {
  return (status.remotes ?? []).flatMap((remote) =>
    DIRECTIONS.flatMap((way) => {
      const direction = remote[way];
      return direction ? [{ remote, way, direction }] : [];
    }),
  );
}

/** What `GET /{db}/_sensors` tells of each. */
export interface Sensor {
  readonly device: string;
  readonly sensor: string;
  readonly unit: string | null;
  readonly last_time: string | null;
  readonly last_value: unknown;
  readonly quality: string | null;
}
