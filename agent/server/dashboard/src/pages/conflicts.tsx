/** Documents that two sides have changed: what each made of it, and which of it is to stay. */

import { inDb, request } from "../api";
import { OneConflict } from "../conflict";
import { type ConflictRow, conflictsOf } from "../documents";
import { type Route, go, link, useLoaded, useShared } from "../hooks";
import { Ago, Empty, Failure, Loading, Name, NoDatabase, StatePill } from "../parts";
import { many, parseTime } from "../text";

const PAGE = 50;

export function Conflicts({ route }: { route: Route }) {
  const { db } = useShared();
  if (db === null) return <NoDatabase />;
  const { id, start } = route.query;
  return id === undefined ? (
    <ConflictList key={db} db={db} start={start} />
  ) : (
    <OneConflict key={`${db} ${id}`} db={db} id={id} start={start} />
  );
}

// --- all of them ---------------------------------------------------------------------

/** A page of them, from the id `start` on. */
function ConflictList({ db, start }: { db: string; start: string | undefined }) {
  const { dbs } = useShared();
  const { value, error } = useLoaded(
    `${db} ${start ?? ""}`,
    (signal) => conflictsOf(db, start, PAGE, signal),
    5000,
  );
  if (!value) {
    return error === undefined ? <Loading /> : <Failure error={error} />;
  }
  const { next } = value;
  const here = dbs && dbs.length > 1 ? " of this database" : "";
  return (
    <>
      {error !== undefined && <Failure error={error} />}
      {value.total === 0 ? (
        <Empty title={`No document${here} has a conflict`}>
          When two sides change the same document, both versions are kept and shown here.
        </Empty>
      ) : (
        <section>
          <p class="hint">
            {many(value.total, "document")} with conflicts. Both sides of each are kept until
            somebody, or a policy, decides.
          </p>
          {value.rows.length === 0 ? (
            <Empty title="None of them comes after where this page begins" />
          ) : (
            <ul class="list card">
              {value.rows.map((conflict) => (
                <ConflictLine key={conflict.id} db={db} start={start} conflict={conflict} />
              ))}
            </ul>
          )}
        </section>
      )}
      {(start !== undefined || next !== null) && (
        <div class="row spread">
          <button
            type="button"
            disabled={start === undefined}
            onClick={() => go("conflicts", { db })}
          >
            First page
          </button>
          <button
            type="button"
            disabled={next === null}
            onClick={() => next !== null && go("conflicts", { db, start: next })}
          >
            Next page
          </button>
        </div>
      )}
      <Elsewhere db={db} />
      <Resolutions db={db} />
    </>
  );
}

/** The other databases of this server with conflicts. */
function Elsewhere({ db }: { db: string }) {
  const { status } = useShared();
  const counts = Object.entries(status.value?.conflicts?.databases ?? {});
  const others = counts.filter(([name]) => name !== db);
  if (!others.length) return null;
  return (
    <section aria-labelledby="elsewhere">
      <h2 id="elsewhere">In other databases</h2>
      <ul class="list card">
        {others.map(([name, number]) => (
          <li key={name}>
            <a href={link("conflicts", { db: name })}>
              <span class="line">
                <Name code>{name}</Name>
                <span class="note">{many(number, "document")}</span>
              </span>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}

function ConflictLine({
  db,
  start,
  conflict,
}: {
  db: string;
  start: string | undefined;
  conflict: ConflictRow;
}) {
  const names = conflict.fields.slice(0, 4);
  const more = conflict.differences - names.length;
  return (
    <li>
      <a href={link("conflicts", { db, start, id: conflict.id })}>
        <span class="line">
          <Name code>{conflict.id}</Name>
          <StatePill conflict={conflict} />
        </span>
        <span class="note">
          {many(conflict.revs.length, "version")}; they differ in{" "}
          <Name>{names.join(", ") || "nothing but their history"}</Name>
          {more > 0 && ` and ${more} more`}
        </span>
      </a>
    </li>
  );
}

function Resolutions({ db }: { db: string }) {
  const { value } = useLoaded(`${db} resolutions`, async (signal) => {
    const path = inDb(db, ["_resolutions"], { limit: 20, descending: true });
    return request<{ rows: { id: string; rev: string; by: string; time: string }[] }>("GET", path, {
      signal,
    });
  });
  if (!value?.rows.length) return null;
  return (
    <section aria-labelledby="resolutions">
      <h2 id="resolutions">Resolved lately</h2>
      <div class="card scrolls" tabIndex={0} role="region" aria-label="Resolved lately">
        <table>
          <thead>
            <tr>
              <th>Document</th>
              <th>By</th>
              <th>When</th>
            </tr>
          </thead>
          <tbody>
            {value.rows.map((row) => (
              <tr key={`${row.id} ${row.rev}`}>
                <th scope="row">
                  <a href={link("documents", { db, id: row.id })}>
                    <Name code>{row.id}</Name>
                  </a>
                </th>
                <td>
                  <Name>{row.by}</Name>
                </td>
                <td>
                  <Ago time={parseTime(row.time)} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
