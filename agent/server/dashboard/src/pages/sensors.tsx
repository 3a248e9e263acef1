/** Which sensors there are, what they say now, and how that went. */

import { useState } from "preact/hooks";
import { get, inDb } from "../api";
import { Course } from "../course";
import { type Route, link, useLoaded, useShared } from "../hooks";
import { type Live, newest, useLive } from "../live";
import { Ago, Empty, Failure, Loading, Name, NoDatabase, Pill } from "../parts";
import { Shadow } from "../shadow";
import type { Sensor } from "../status";
import { measure, symbol } from "../text";

const EVERY = 5000;

export function Sensors({ route }: { route: Route }) {
  const { db } = useShared();
  const [wanted, setWanted] = useState("");
  const { value, error } = useLoaded(
    db,
    async (signal) =>
      (await get<{ sensors: Sensor[] }>(inDb(db ?? "", ["_sensors"]), signal)).sensors,
    EVERY,
  );
  const device = route.query["device"] ?? value?.[0]?.device ?? "";
  const sensor =
    route.query["sensor"] ?? value?.find((each) => each.device === device)?.sensor ?? "";
  const live = useLive(db, device, sensor);
  if (db === null) return <NoDatabase />;
  if (!value) return error === undefined ? <Loading /> : <Failure error={error} />;
  if (!value.length) {
    return (
      <Empty title="No sensor has said anything yet">
        Readings appear here as soon as a device sends some, or another agent replicates them to
        this database.
      </Empty>
    );
  }
  const found = value.find((each) => each.device === device && each.sensor === sensor);
  const shown = value.filter((each) => `${each.device} ${each.sensor}`.includes(wanted));
  const isChosen = route.query["device"] !== undefined;
  return (
    <div class={`split ${isChosen ? "chosen" : ""}`}>
      <div class="beside">
        {value.length > 6 && (
          <input
            type="search"
            class="wide"
            aria-label="Find a sensor"
            placeholder="Find a sensor"
            value={wanted}
            onInput={(event) => setWanted(event.currentTarget.value)}
          />
        )}
        <SensorList sensors={shown} chosen={found} live={live} db={db} />
      </div>
      <div class="stack">
        {isChosen && (
          <a class="back" href={link("sensors", { db })}>
            All sensors
          </a>
        )}
        {error !== undefined && <Failure error={error} />}
        {found ? (
          <Course key={`${db} ${device} ${sensor}`} db={db} sensor={found} live={live} />
        ) : (
          <Empty title="This sensor has no readings in this database" />
        )}
        {device && (
          <Shadow
            key={`${db} ${device}`}
            db={db}
            device={device}
            changes={live.settings + live.connections}
          />
        )}
      </div>
    </div>
  );
}

function SensorList({
  sensors,
  chosen,
  live,
  db,
}: {
  sensors: readonly Sensor[];
  chosen: Sensor | undefined;
  /** Of the chosen one. */
  live: Live;
  db: string;
}) {
  const devices = [...new Set(sensors.map((each) => each.device))];
  return (
    <>
      {devices.map((name) => (
        <div key={name}>
          <p class="group-title">
            <Name>{name}</Name>
          </p>
          <ul class="list card">
            {sensors
              .filter((each) => each.device === name)
              .map((each) => (
                <SensorLine
                  key={each.sensor}
                  sensor={each}
                  live={each === chosen ? live : null}
                  db={db}
                />
              ))}
          </ul>
        </div>
      ))}
    </>
  );
}

function SensorLine({ sensor, live, db }: { sensor: Sensor; live: Live | null; db: string }) {
  const last = newest(sensor, live);
  return (
    <li>
      <a
        href={link("sensors", { db, device: sensor.device, sensor: sensor.sensor })}
        aria-current={live ? "true" : undefined}
      >
        <span class="line">
          <Name>{sensor.sensor}</Name>
          <span>
            {measure(last.value)} <span class="unit">{symbol(sensor.unit)}</span>
          </span>
        </span>
        <span class="line note">
          <Ago time={last.time} />
          {last.quality && <Pill tone="warning">{last.quality}</Pill>}
        </span>
      </a>
    </li>
  );
}
