/** Which sensors there are, what they say now, and how that went. */

import { useState } from "preact/hooks";
import { get, inDb } from "../api";
import { Course } from "../course";
import { type Route, link, useLoaded, useShared } from "../hooks";
import { useLive } from "../live";
import { Ago, Empty, Failure, Loading, Name, NoDatabase, Pill } from "../parts";
import { Shadow } from "../shadow";
import type { Sensor } from "../status";
import { measure, parseTime, symbol } from "../text";

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
        <SensorList sensors={shown} device={device} sensor={sensor} db={db} />
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
  device,
  sensor,
  db,
}: {
  sensors: readonly Sensor[];
  device: string;
  sensor: string;
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
                <li key={each.sensor}>
                  <a
                    href={link("sensors", { db, device: name, sensor: each.sensor })}
                    aria-current={name === device && each.sensor === sensor ? "true" : undefined}
                  >
                    <span class="line">
                      <Name>{each.sensor}</Name>
                      <span>
                        {measure(each.last_value)} <span class="unit">{symbol(each.unit)}</span>
                      </span>
                    </span>
                    <span class="line note">
                      <Ago time={parseTime(each.last_time)} />
                      {each.quality && <Pill tone="warning">{each.quality}</Pill>}
                    </span>
                  </a>
                </li>
              ))}
          </ul>
        </div>
      ))}
    </>
  );
}
