/** One document: its members, its attachments and its revisions. */

import { useState } from "preact/hooks";
import { ApiError, get, inDb, request } from "./api";
import { readDocument } from "./documents";
import { Editor } from "./editor";
import { link, useLoaded, useShared } from "./hooks";
import { type Json, line } from "./json";
import { DeleteDialog, Failure, Loading, Name } from "./parts";
import { bytes, many } from "./text";
import { type Leaf, RevisionTree } from "./tree";

const LARGE = 200_000; // letters of text that are shown without asking

export function Document({ db, id, rev }: { db: string; id: string; rev: string | undefined }) {
  const { writes } = useShared();
  const [editing, setEditing] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const shown = useLoaded(`${db} ${id} ${rev ?? ""}`, (signal) =>
    readDocument(db, id, rev, signal),
  );
  const leaves = useLoaded(`${db} ${id}`, (signal) => leavesOf(db, id, signal));
  const isGone = shown.error instanceof ApiError && shown.error.status === 404;
  const isDeleted = isGone && (shown.error as ApiError).message === "deleted";
  const doc = isGone ? undefined : shown.value;
  const live = leaves.value?.filter((leaf) => !leaf._deleted) ?? [];
  const reload = () => {
    shown.reload();
    leaves.reload();
  };
  const remove = async () => {
    try {
      await request("DELETE", inDb(db, [id], { rev: doc?.rev }));
    } catch (problem) {
      if (!(problem instanceof ApiError && problem.status === 409)) throw problem;
      throw new Error("Somebody has changed it meanwhile; nothing was deleted. Load it again.");
    }
    setDeleting(false);
    reload();
  };
  return (
    <article class="stack">
      <div class="row spread">
        <h2>
          <Name code>{id}</Name>
        </h2>
        {doc && writes && !editing && rev === undefined && (
          <div class="row">
            <button type="button" onClick={() => setEditing(true)}>
              Edit
            </button>
            <button type="button" class="danger" onClick={() => setDeleting(true)}>
              Delete
            </button>
          </div>
        )}
      </div>
      {rev !== undefined && (
        <div class="notice quiet">
          This is the revision <Name code>{rev}</Name>.{" "}
          <a href={link("documents", { db, id })}>Show the winning one</a>
        </div>
      )}
      {live.length > 1 && (
        <div class="notice warning">
          {many(live.length, "revision")} of this document conflict.{" "}
          <a href={link("conflicts", { db, id })}>Resolve the conflict</a>
        </div>
      )}
      {shown.loading && <Loading />}
      {shown.error !== undefined && !doc && (
        <Failure
          error={shown.error}
          missing={isDeleted ? "This document is deleted." : "There is no such document."}
        />
      )}
      {doc && !editing && <Body pretty={doc.pretty} />}
      {doc && editing && (
        <Editor
          key={doc.rev}
          db={db}
          id={id}
          given={doc.json}
          onDone={() => {
            setEditing(false);
            reload();
          }}
          onCancel={() => setEditing(false)}
        />
      )}
      {doc && !editing && <Attachments db={db} id={id} doc={doc.json} rev={rev} />}
      {leaves.value && leaves.value.length > 0 && (
        <section aria-labelledby="revisions">
          <h2 id="revisions">Revisions</h2>
          <RevisionTree
            leaves={leaves.value}
            href={(leaf) => link("documents", { db, id, rev: leaf })}
          />
        </section>
      )}
      {deleting && doc && (
        <DeleteDialog remove={remove} onClose={() => setDeleting(false)}>
          <Name code>{id}</Name>{" "}
          {live.length > 1
            ? "has other versions, which are in conflict with this one; one of them takes its place."
            : "is deleted here, and wherever it is replicated to."}
        </DeleteDialog>
      )}
    </article>
  );
}

async function leavesOf(db: string, id: string, signal: AbortSignal): Promise<Leaf[]> {
  const path = inDb(db, [id], { revs: true, open_revs: "all" });
  const answer = await get<({ ok: Leaf } | { missing: string })[]>(path, signal);
  return answer.flatMap((each) => ("ok" in each ? [each.ok] : []));
}

function Body({ pretty }: { pretty: string }) {
  const [whole, setWhole] = useState(pretty.length <= LARGE);
  return (
    <>
      {/* Scrolls, so the keyboard must reach it. */}
      <pre class="json card" tabIndex={0}>
        {whole ? pretty : pretty.slice(0, LARGE)}
      </pre>
      {!whole && (
        <div class="row">
          <span class="note">The first {bytes(LARGE)} are shown.</span>
          <button type="button" onClick={() => setWhole(true)}>
            Show all {bytes(pretty.length)}
          </button>
        </div>
      )}
    </>
  );
}

function Attachments({
  db,
  id,
  doc,
  rev,
}: {
  db: string;
  id: string;
  doc: Json;
  rev: string | undefined;
}) {
  const stubs = doc.kind === "object" ? doc.members.get("_attachments") : undefined;
  if (stubs?.kind !== "object" || !stubs.members.size) return null;
  return (
    <section aria-labelledby="attachments">
      <h2 id="attachments">Attachments</h2>
      <ul class="list card">
        {[...stubs.members].map(([name, stub]) => {
          const about = JSON.parse(line(stub)) as { content_type?: string; length?: number };
          return (
            <li key={name}>
              <a href={inDb(db, [id, name], { rev })} download={name}>
                <span class="line">
                  <Name>{name}</Name>
                  <span class="note">
                    <Name>{about.content_type ?? ""}</Name> · {bytes(about.length)}
                  </span>
                </span>
              </a>
            </li>
          );
        })}
      </ul>
    </section>
  );
}
