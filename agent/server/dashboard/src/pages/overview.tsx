/** What the agent is doing now: the four stages, each remote, the machine, and what needs somebody. */

import { type Route, link, useNow, useShared } from "../hooks";
import { shown } from "../json";
import { Ago, Bar, Empty, Failure, Loading, Name, Pill, Stat } from "../parts";
import { Pipeline, toneOf } from "../pipeline";
import {
  type Attention,
  type Device,
  type Direction,
  type Hook,
  type Status,
  type Verified,
  directions,
} from "../status";
import { Figure, Table } from "../table";
import { at, bytes, count, duration, many, parseTime, rate, sentence, sum } from "../text";

export function Overview(_: { route: Route }) {
  const { status } = useShared();
  const { value, error } = status;
  if (!value) {
    return error === undefined ? <Loading /> : <Failure error={error} />;
  }
  return (
    <>
      <NeedsAttention items={value.attention} />
      {value.pipeline && <Pipeline stages={value.pipeline} status={value} />}
      <Remotes status={value} />
      {value.devices && value.devices.length > 0 && <Devices devices={value.devices} />}
      {value.hooks && value.hooks.length > 0 && <Hooks hooks={value.hooks} />}
      {value.upstreams && <Upstreams status={value} />}
      <Machine status={value} />
    </>
  );
}

function NeedsAttention({ items }: { items: readonly Attention[] | undefined }) {
  if (!items) return null;
  if (!items.length) {
    return (
      <section class="attention calm" aria-label="Attention">
        <span class="dot good" aria-hidden="true" /> Nothing needs attention.
      </section>
    );
  }
  return (
    <section class="attention" aria-label="Attention">
      <ul>
        {items.map((item) => (
          <li key={item.what} class={item.level}>
            <Pill tone={item.level}>{item.level}</Pill>
            <div>
              <strong>{shown(item.what)}</strong>
              <p>
                {shown(item.do)}{" "}
                {item.page && <a href={item.page}>Open {/#\/(\w+)/.exec(item.page)?.[1]}</a>}
              </p>
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}

// --- remotes -------------------------------------------------------------------------

function Remotes({ status }: { status: Status }) {
  const ways = directions(status);
  if (!status.remotes) return null;
  return (
    <section aria-labelledby="remotes">
      <h2 id="remotes">Remotes</h2>
      {ways.length === 0 ? (
        <Empty title="Nothing is replicated">
          Add a <code>[[remote]]</code> to the configuration, and everything is sent there, too.
        </Empty>
      ) : (
        <Table
          label="Remotes"
          columns={["Remote", "State"]}
          numbers={["Rate", "Waiting", "Oldest", "Drained in", "Lag", "Errors"]}
          after={["Last confirmed"]}
        >
          {ways.map(({ remote, way, direction }) => (
            <RemoteRow
              key={`${remote.name} ${way}`}
              name={remote.name}
              url={remote.url}
              way={way}
              direction={direction}
            />
          ))}
          {status.remotes.map(
            ({ name, verified }) =>
              verified && <VerifiedRow key={name} name={name} verified={verified} />,
          )}
        </Table>
      )}
    </section>
  );
}

function VerifiedRow({ name, verified }: { name: string; verified: Verified }) {
  const { time, documents, different, error } = verified;
  return (
    <tr class={different || error ? "trouble" : undefined}>
      <td colSpan={9}>
        <Name>{name}</Name>{" "}
        {time === null ? (
          "is not verified yet."
        ) : (
          <>
            was verified <Ago time={parseTime(time)} />: {many(documents, "document")},{" "}
            {different
              ? `${count(different)} ${different === 1 ? "differs" : "differ"}`
              : "all are the same"}
            .
          </>
        )}
        {error && ` ${sentence(error)}`}
      </td>
    </tr>
  );
}

function RemoteRow({
  name,
  url,
  way,
  direction,
}: {
  name: string;
  url: string;
  way: "push" | "pull";
  direction: Direction;
}) {
  const pending = direction.pending ?? 0;
  return (
    <>
      <tr>
        <th scope="row" title={url}>
          <span class="way" aria-hidden="true">
            {way === "push" ? "↑" : "↓"}
          </span>{" "}
          <Name>{name}</Name> <span class="quiet-text">{way}</span>
        </th>
        <td>
          <Pill tone={toneOf(direction)}>{direction.state}</Pill>
        </td>
        <Figure of="Rate">
          <span>
            {rate(direction.rate)}
            <span class="unit">/s</span>
          </span>
          {!!direction.bytes_rate && (
            <span class="quiet-text under">{bytes(Math.round(direction.bytes_rate))}/s</span>
          )}
        </Figure>
        <Figure of="Waiting">{count(direction.pending)}</Figure>
        <Figure of="Oldest">{pending ? duration(direction.backlog_seconds) : "–"}</Figure>
        <Figure of="Drained in">{pending ? duration(direction.drain_seconds) : "–"}</Figure>
        <Figure of="Lag">{duration(direction.lag)}</Figure>
        <Figure of="Errors">{count(direction.errors ?? direction.doc_write_failures)}</Figure>
        <td class="whole" data-label="Last confirmed">
          <Ago time={parseTime(direction.last_confirmed)} />
        </td>
      </tr>
      <Trouble of={direction} columns={9} />
    </>
  );
}

/** Why something waits, and until when. */
function Trouble({ of, columns }: { of: Direction | Hook; columns: number }) {
  if (!of.last_error) return null;
  return (
    <tr class="trouble">
      <td colSpan={columns}>
        {sentence(of.last_error)}
        {of.retry_at && (
          <>
            {" "}
            <NextTry time={parseTime(of.retry_at)} />
          </>
        )}
      </td>
    </tr>
  );
}

function NextTry({ time }: { time: number | null }) {
  const seconds = time === null ? 0 : (time - useNow()) / 1000;
  return <>{seconds >= 1 ? `Next try in ${duration(seconds)}.` : "It is tried again now."}</>;
}

function Hooks({ hooks }: { hooks: readonly Hook[] }) {
  return (
    <section aria-labelledby="hooks">
      <h2 id="hooks">Hooks</h2>
      <Table
        label="Hooks"
        columns={["Hook", "State"]}
        numbers={["Waiting", "Processed", "Failed calls", "Given up"]}
      >
        {hooks.map((hook) => (
          <HookRow key={hook.name} hook={hook} />
        ))}
      </Table>
    </section>
  );
}

function HookRow({ hook }: { hook: Hook }) {
  return (
    <>
      <tr>
        <th scope="row">
          <Name>{hook.name}</Name>{" "}
          <span class="quiet-text">
            <Name>{hook.target}</Name>
          </span>
        </th>
        <td>
          <Pill tone={toneOf(hook)}>{hook.state}</Pill>
        </td>
        <Figure of="Waiting">{count(hook.pending)}</Figure>
        <Figure of="Processed">{count(hook.processed)}</Figure>
        <Figure of="Failed calls">{count(hook.failed)}</Figure>
        <Figure of="Given up">{hook.dead ? <Dead hook={hook} /> : "0"}</Figure>
      </tr>
      <Trouble of={hook} columns={6} />
    </>
  );
}

/** How many documents a hook has given up; administrators get to them from here. */
function Dead({ hook }: { hook: Hook }) {
  const pill = <Pill tone="error">{count(hook.dead)}</Pill>;
  if (!useShared().session.roles.includes("_admin")) return pill;
  const label = `Show ${many(hook.dead, "document")} given up by ${shown(hook.name)}`;
  return (
    <a href={link("hooks", { name: hook.name })} aria-label={label}>
      Show {pill}
    </a>
  );
}

function Upstreams({ status }: { status: Status }) {
  return (
    <section aria-labelledby="upstreams">
      <h2 id="upstreams">Upstream</h2>
      <div class="card">
        <table>
          <tbody>
            {status.upstreams?.map(({ name, url }) => (
              <tr key={name}>
                <th scope="row">
                  <Name>{name}</Name>
                </th>
                <td>
                  <Name code>{url}</Name>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

// --- devices and the machine ---------------------------------------------------------

function Devices({ devices }: { devices: readonly Device[] }) {
  const { db } = useShared();
  return (
    <section aria-labelledby="devices">
      <h2 id="devices">Devices</h2>
      <Table
        label="Devices"
        columns={["Device", "Port"]}
        numbers={["Sensors", "Rate", "Errors", "Missing"]}
      >
        {devices.map((device) => (
          <tr key={device.name}>
            <th scope="row">
              <a href={link("sensors", { db: db ?? undefined, device: device.name })}>
                <Name>{device.name}</Name>
              </a>
            </th>
            <td>
              <Pill tone={device.state === "open" ? "good" : "error"}>{device.state}</Pill>
            </td>
            <Figure of="Sensors">{count(device.sensors.length)}</Figure>
            <Figure of="Rate">
              <span>
                {rate(sum(device.sensors.map((sensor) => sensor.rate)))}
                <span class="unit">/s</span>
              </span>
            </Figure>
            <Figure of="Errors">{count(device.errors)}</Figure>
            <Figure of="Missing">{count(device.missing)}</Figure>
          </tr>
        ))}
      </Table>
    </section>
  );
}

function Machine({ status }: { status: Status }) {
  const { system = {}, database } = status;
  const { disk_free: free, disk_total: total, bytes_written: written } = system;
  const used = free !== undefined && total ? 1 - free / total : null;
  const load = typeof system.load === "number" ? system.load : system.load?.[0];
  return (
    <section aria-labelledby="machine">
      <h2 id="machine">Machine</h2>
      <dl class="stats card">
        {used !== null && (
          <Stat label="Disk free" value={bytes(free)}>
            <Bar part={used} label="Disk used" />
            of {bytes(total)}
          </Stat>
        )}
        {system.memory_rss !== undefined && (
          <Stat label="Memory" value={bytes(system.memory_rss)}>
            of the agent
          </Stat>
        )}
        {written !== undefined && (
          <Stat label="Written to disk" value={bytes(written)}>
            {status.uptime > 60 && <>{bytes((written / status.uptime) * 86_400)} a day</>}
          </Stat>
        )}
        {database && (
          <Stat label="Database" value={bytes(database.file_size)}>
            {many(database.doc_count, "document")}
          </Stat>
        )}
        {load !== undefined && <Stat label="Load" value={rate(load)} />}
        <Stat label="Running for" value={duration(status.uptime)}>
          {status.started && <>since {at(parseTime(status.started))}</>}
        </Stat>
      </dl>
    </section>
  );
}
