/** Which gateways a hub or a bridge has heard of, and how they are. */

import { type Route, useShared } from "../hooks";
import { Ago, Empty, Failure, Loading, Name, Pill } from "../parts";
import type { Gateway } from "../status";
import { count, duration, parseTime } from "../text";

export function Gateways(_: { route: Route }) {
  const { status } = useShared();
  const { value, error } = status;
  if (!value) return error === undefined ? <Loading /> : <Failure error={error} />;
  if (!value.gateways) {
    return (
      <Empty title="No gateways are served over MQTT here">
        A hub with <code>--broker</code> and a bridge list here the gateways that replicate through
        the broker.
      </Empty>
    );
  }
  if (!value.gateways.length) {
    return (
      <Empty title="No gateway has been heard of yet">
        One appears as soon as it connects to {value.mqtt?.broker ?? "the broker"}.
      </Empty>
    );
  }
  const online = value.gateways.filter(({ status: each }) => each === "online").length;
  return (
    <section>
      <p class="hint">
        {online} of {value.gateways.length} online
        {value.mqtt && `, through ${value.mqtt.broker} (${value.mqtt.state})`}
      </p>
      <div class="card scrolls" tabIndex={0} role="region" aria-label="Gateways">
        <table>
          <thead>
            <tr>
              <th>Gateway</th>
              <th>Presence</th>
              <th>Since</th>
              <th class="number">Backlog</th>
              <th class="number">Lag</th>
              <th class="number">Conflicts</th>
              <th>Version</th>
            </tr>
          </thead>
          <tbody>
            {value.gateways.map((gateway) => (
              <GatewayRow key={gateway.name} gateway={gateway} />
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function GatewayRow({ gateway }: { gateway: Gateway }) {
  const online = gateway.status === "online";
  return (
    <tr>
      <th scope="row">
        <Name>{gateway.name}</Name>
      </th>
      <td>
        <Pill tone={online ? "good" : "error"}>{gateway.status}</Pill>
      </td>
      <td>
        <Ago time={parseTime(gateway.since)} />
      </td>
      <td class="number">{count(gateway.backlog)}</td>
      <td class="number">{duration(gateway.lag)}</td>
      <td class="number">{count(gateway.conflicts)}</td>
      <td>{gateway.version ?? "–"}</td>
    </tr>
  );
}
