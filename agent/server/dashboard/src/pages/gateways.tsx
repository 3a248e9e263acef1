/** Which gateways a hub or a bridge has heard of, and how they are. */

import { type Route, useShared } from "../hooks";
import { shown } from "../json";
import { Ago, Empty, Failure, Loading, Name, Pill } from "../parts";
import type { Gateway } from "../status";
import { Figure, Table } from "../table";
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
  const online = value.gateways.filter(isOnline);
  const offline = value.gateways.filter((each) => !isOnline(each));
  return (
    <section>
      <p class="hint">
        {online.length} of {value.gateways.length} online
        {value.mqtt && `, through ${value.mqtt.broker} (${value.mqtt.state})`}
      </p>
      <Table
        label="Gateways"
        columns={["Gateway", "Presence", "Since"]}
        numbers={["Backlog", "Lag", "Conflicts"]}
        after={["Version"]}
      >
        {[...offline, ...online].map((gateway) => (
          <GatewayRow key={gateway.name} gateway={gateway} />
        ))}
      </Table>
    </section>
  );
}

function isOnline({ status }: Gateway): boolean {
  return status === "online";
}

function GatewayRow({ gateway }: { gateway: Gateway }) {
  return (
    <tr>
      <th scope="row">
        <Name>{gateway.name}</Name>
      </th>
      <td>
        <Pill tone={isOnline(gateway) ? "good" : "error"}>{gateway.status}</Pill>
      </td>
      <td data-label="Since">
        <Ago time={parseTime(gateway.since)} />
      </td>
      <Figure of="Backlog">{count(gateway.backlog)}</Figure>
      <Figure of="Lag">{duration(gateway.lag)}</Figure>
      <Figure of="Conflicts">{count(gateway.conflicts)}</Figure>
      <td class="whole" data-label="Version">
        {gateway.version === null ? "–" : shown(gateway.version)}
      </td>
    </tr>
  );
}
