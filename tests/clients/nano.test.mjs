// nano, unmodified, with a real hub. `test_node_clients.py` runs it.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { buffer, json } from "node:stream/consumers";

import { check, content, hub, numbered, require, until, urlFor } from "./support.mjs";

const Nano = require("nano");
const nano = Nano(urlFor(hub.admin));

let databases = 0;

/** An empty database. Its name needs escaping in a URL. */
async function newDatabase() {
  const name = `nano/db+${++databases}`;
  await nano.db.create(name);
  return nano.use(name);
}

async function fill(db, count) {
  const results = await db.bulk({ docs: numbered(count) });
  assert.ok(results.every((result) => result.ok));
  return results;
}

/** The error of nano that CouchDB's status and words have become. */
function refused(statusCode, error, reason) {
  return (caught) => {
    assert.equal(caught.scope, "couch");
    assert.deepEqual([caught.statusCode, caught.error], [statusCode, error]);
    assert.match(caught.reason, reason ?? /./);
    assert.equal(caught.message, caught.reason);
    return true;
  };
}

// --- the server and its users ---------------------------------------------------------

check("what the server tells", async () => {
  assert.equal((await nano.info()).couchdb, "Welcome");
  assert.equal(new Set((await nano.uuids(5)).uuids).size, 5);
  // As in a CouchDB whose administrator has not made the database of these events.
  await assert.rejects(nano.updates(), refused(404, "not_found", /does not exist/));
});

check("logging in with a password in the address", async () => {
  const { userCtx, info } = await nano.session();
  assert.deepEqual(userCtx, { name: hub.admin.name, roles: ["_admin"] });
  assert.equal(info.authenticated, "default");
  const wrong = Nano(urlFor({ ...hub.member, password: "wrong" }));
  await assert.rejects(wrong.session(), refused(401, "unauthorized", /incorrect/));
  const member = Nano(urlFor(hub.member));
  await assert.rejects(member.db.create("not-by-a-member"), refused(401, "unauthorized"));
});

check("logging in with a session", async () => {
  const visitor = Nano(hub.url);
  await assert.rejects(visitor.db.list(), refused(401, "unauthorized"));
  await assert.rejects(visitor.auth(hub.admin.name, "wrong"), refused(401, "unauthorized"));
  const { ok, roles } = await visitor.auth(hub.admin.name, hub.admin.password);
  assert.deepEqual([ok, roles], [true, ["_admin"]]);
  assert.equal((await visitor.session()).info.authenticated, "cookie");
  assert.ok(Array.isArray(await visitor.db.list()));
});

check("databases", async () => {
  const name = "nano/of_$its+own";
  await nano.db.create(name);
  await assert.rejects(nano.db.create(name), refused(412, "file_exists"));
  await assert.rejects(nano.db.create("Capital"), refused(400, "illegal_database_name"));
  assert.ok((await nano.db.list()).includes(name));
  assert.deepEqual(await json(nano.db.listAsStream()), await nano.db.list());
  assert.equal((await nano.db.get(name)).db_name, name);
  assert.equal((await nano.use(name).info()).doc_count, 0);
  assert.deepEqual(await nano.db.compact(name), { ok: true });
  assert.deepEqual(await nano.db.destroy(name), { ok: true });
  await assert.rejects(nano.db.get(name), refused(404, "not_found", /does not exist/));
});

check("letting a member in", async () => {
  const db = await newDatabase();
  const members = Nano(urlFor(hub.member)).use(db.config.db);
  await assert.rejects(members.info(), refused(403, "forbidden"));
  const path = "_security";
  const body = { members: { names: [hub.member.name] } };
  await nano.request({ db: db.config.db, path, method: "put", body });
  assert.deepEqual(await nano.request({ db: db.config.db, path }), body);
  assert.ok((await members.insert({ by: "a member" })).ok);
  const index = members.createIndex({ index: { fields: ["n"] } });
  await assert.rejects(index, refused(403, "forbidden"));
});

// --- documents ------------------------------------------------------------------------

check("writing and reading a document", async () => {
  const db = await newDatabase();
  const id = "ä/☃ +%20?";
  const first = await db.insert({ v: 1, "°": [null] }, id);
  assert.deepEqual(await db.get(id), { _id: id, _rev: first.rev, v: 1, "°": [null] });
  assert.equal((await db.head(id)).etag, `"${first.rev}"`);
  await assert.rejects(db.insert({ v: 2 }, id), refused(409, "conflict", /update conflict/));
  const second = await db.insert({ _id: id, _rev: first.rev, v: 2 });
  assert.equal((await db.get(id, { rev: first.rev })).v, 1);
  const { _revisions, _revs_info } = await db.get(id, { revs: true, revs_info: true });
  assert.equal(_revisions.start, 2);
  assert.deepEqual(_revs_info.map(({ rev }) => rev), [second.rev, first.rev]);
  assert.match((await db.insert({ v: 3 })).id, /^[0-9a-f]{32}$/);

  await assert.rejects(db.destroy(id, first.rev), refused(409, "conflict"));
  assert.ok((await db.destroy(id, second.rev)).ok);
  await assert.rejects(db.get(id), refused(404, "not_found", /^deleted$/));
  await assert.rejects(db.get("never"), refused(404, "not_found", /^missing$/));
  await assert.rejects(db.head("never"), { statusCode: 404 }); // no body to take words from
});

check("a conflict that replication left", async () => {
  const db = await newDatabase();
  const docs = ["b", "a"].map((leaf) => ({
    _id: "x",
    _rev: `2-${leaf}`,
    _revisions: { start: 2, ids: [leaf, "root"] },
    leaf,
  }));
  assert.deepEqual(await db.bulk({ docs, new_edits: false }), []);
  const doc = await db.get("x", { conflicts: true });
  assert.deepEqual([doc.leaf, doc._conflicts], ["b", ["2-a"]]);
  const leaves = await db.get("x", { open_revs: "all" });
  assert.deepEqual(leaves.map(({ ok }) => ok._rev).sort(), ["2-a", "2-b"]);
  await db.destroy("x", "2-a");
  assert.equal((await db.get("x", { conflicts: true }))._conflicts, undefined);
  const body = { x: ["2-b", "3-c"] };
  const diff = await nano.request({ db: db.config.db, path: "_revs_diff", method: "post", body });
  assert.deepEqual(diff, { x: { missing: ["3-c"], possible_ancestors: ["2-b"] } });
});

check("many documents at once", async () => {
  const db = await newDatabase();
  await fill(db, 30);
  const [conflict, made] = await db.bulk({ docs: [{ _id: "0000" }, { _id: "more" }] });
  assert.deepEqual([conflict.error, made.ok], ["conflict", true]);

  const keys = ["0003", "never", "0001"];
  const { rows } = await db.fetch({ keys });
  assert.deepEqual(rows.map(({ doc, error }) => doc?.n ?? error), [3, "not_found", 1]);
  const revs = await db.fetchRevs({ keys });
  assert.deepEqual(revs.rows.map(({ key }) => key), keys);
  assert.equal(revs.rows[0].doc, undefined);

  const listed = async (options) => (await db.list(options)).rows.map(({ id }) => id);
  assert.equal((await listed()).length, 31);
  assert.deepEqual(await listed({ startkey: "0003", endkey: "0004" }), ["0003", "0004"]);
  assert.deepEqual(await listed({ start_key: "0028", inclusive_end: false, end_key: "0029" }), [
    "0028",
  ]);
  assert.deepEqual(await listed({ descending: true, limit: 2, skip: 1 }), ["0029", "0028"]);
  assert.deepEqual(await listed({ keys: ["0009", "0001"] }), ["0009", "0001"]);
  const streamed = await json(db.listAsStream({ include_docs: true, key: "0007" }));
  assert.equal(streamed.rows[0].doc.n, 7);
});

check("design documents are stored and their functions refused", async () => {
  const db = await newDatabase();
  await db.insert({ views: { "by-n": { map: "function (doc) { emit(doc.n) }" } } }, "_design/d");
  assert.ok((await db.get("_design/d")).views["by-n"]);
  await assert.rejects(db.view("d", "by-n"), refused(501, "not_implemented", /_find/));
  await assert.rejects(db.view("d", "never"), refused(404, "not_found", /missing_named_view/));
  await assert.rejects(db.show("d", "never", "x"), refused(404, "not_found"));
});

check("local documents", async () => {
  const db = await newDatabase();
  const { rev } = await db.insert({ at: 7 }, "_local/state");
  assert.equal((await db.get("_local/state")).at, 7);
  assert.ok((await db.insert({ _rev: rev, at: 8 }, "_local/state")).ok);
  assert.equal((await db.list()).rows.length, 0);
});

check("purging", async () => {
  const db = await newDatabase();
  const [{ rev }] = await fill(db, 1);
  const body = { "0000": [rev] };
  const { purged } = await nano.request({
    db: db.config.db,
    path: "_purge",
    method: "post",
    body,
  });
  assert.deepEqual(purged, body);
  assert.deepEqual((await db.changes()).results, []);
});

// --- queries --------------------------------------------------------------------------

check("indexes and queries", async () => {
  const db = await newDatabase();
  await fill(db, 25);
  const query = { selector: { n: { $gte: 5 } }, fields: ["n"], sort: [{ n: "desc" }], limit: 8 };
  await assert.rejects(db.find(query), refused(400, "no_usable_index"));
  const index = { index: { fields: ["n"] }, ddoc: "by-n", name: "n" };
  assert.equal((await db.createIndex(index)).result, "created");
  assert.equal((await db.createIndex(index)).result, "exists");
  const { indexes } = await nano.request({ db: db.config.db, path: "_index" });
  assert.deepEqual(indexes.map(({ name }) => name), ["_all_docs", "n"]);
  const explained = await nano.request({
    db: db.config.db,
    path: "_explain",
    method: "post",
    body: query,
  });
  assert.equal(explained.index.ddoc, "_design/by-n");

  const seen = [];
  let page = await db.find(query);
  while (page.docs.length) {
    seen.push(...page.docs.map(({ n }) => n));
    page = await db.find({ ...query, bookmark: page.bookmark });
  }
  assert.deepEqual(seen, Array.from({ length: 20 }, (_, n) => 24 - n));
  const streamed = await json(db.findAsStream({ ...query, execution_stats: true }));
  assert.equal(streamed.execution_stats.results_returned, 8);
  await assert.rejects(
    db.find({ selector: { n: { $never: 1 } } }),
    refused(400, "invalid_operator"),
  );
});

// --- attachments ----------------------------------------------------------------------

check("attachments one by one", async () => {
  const db = await newDatabase();
  const first = await db.attachment.insert("x", "b.bin", content, "image/png");
  assert.deepEqual(await db.attachment.get("x", "b.bin"), content);
  const stub = (await db.get("x"))._attachments["b.bin"];
  assert.deepEqual([stub.content_type, stub.length], ["image/png", content.length]);
  const piped = Readable.from([content.subarray(0, 50_000), content.subarray(50_000)]);
  const { rev } = await db.attachment.insert("x", "s.bin", piped, "image/png", { rev: first.rev });
  assert.deepEqual(await buffer(db.attachment.getAsStream("x", "s.bin")), content);
  await assert.rejects(
    db.attachment.destroy("x", "b.bin", { rev: first.rev }),
    refused(409, "conflict"),
  );
  await db.attachment.destroy("x", "b.bin", { rev });
  await assert.rejects(db.attachment.get("x", "b.bin"), refused(404, "not_found", /attachment/));
  const [error] = await once(db.attachment.getAsStream("x", "b.bin"), "error");
  assert.equal(error.statusCode, 404);
});

check("a document with its attachments at once", async () => {
  const db = await newDatabase();
  const attachments = [
    { name: "b.bin", data: content, content_type: "image/png" },
    { name: "ä.txt", data: "small ☃", content_type: "text/plain" },
  ];
  await db.multipart.insert({ v: 1 }, attachments, "x");
  assert.deepEqual(await db.attachment.get("x", "b.bin"), content);
  assert.equal(await db.attachment.get("x", encodeURIComponent("ä.txt")), "small ☃");
  const inline = await db.get("x", { attachments: true });
  assert.equal(inline._attachments["b.bin"].data, content.toString("base64"));
  const whole = await db.multipart.get("x");
  assert.match(whole, /"follows":true/);
});

// --- changes --------------------------------------------------------------------------

check("changes", async () => {
  const db = await newDatabase();
  await fill(db, 6);
  const all = await db.changes({ include_docs: true });
  assert.deepEqual(all.results.map(({ doc }) => doc.n), [0, 1, 2, 3, 4, 5]);
  const page = await db.changes({ limit: 2 });
  assert.equal(page.pending, 4);
  const rest = await nano.db.changes(db.config.db, { since: page.last_seq });
  assert.deepEqual(rest.results.map(({ id }) => id), ["0002", "0003", "0004", "0005"]);
  const nothing = await db.changes({ feed: "longpoll", since: "now", timeout: 50 });
  assert.deepEqual(nothing.results, []);
  assert.deepEqual(await json(db.changesAsStream({ since: page.last_seq })), rest);
});

check("a continuous feed", async () => {
  const db = await newDatabase();
  await fill(db, 2);
  const feed = db.changesAsStream({ feed: "continuous", timeout: 500 });
  const seen = [];
  for await (const line of createInterface({ input: feed })) {
    seen.push(JSON.parse(line));
    if (seen.length === 2) {
      await db.insert({}, "later");
    }
  }
  const last = seen.pop();
  assert.deepEqual(seen.map(({ id }) => id), ["0000", "0001", "later"]);
  assert.equal(last.last_seq, seen[2].seq);
});

/** What a reader of changes emits until it ends, and where it ended. */
async function collected(events) {
  const ids = [];
  events.on("batch", (batch) => ids.push(...batch.map(({ id }) => id)));
  const [since] = await once(events, "end");
  return { ids, since };
}

check("a reader that runs to the end and starts again there", async () => {
  const db = await newDatabase();
  await fill(db, 20);
  const from = { since: 0, batchSize: 7, timeout: 50 };
  const { ids, since } = await collected(db.changesReader.get(from));
  assert.equal(ids.length, 20);
  await db.insert({}, "later");
  const again = await collected(db.changesReader.get({ since, timeout: 50 }));
  assert.deepEqual(again.ids, ["later"]);
  const selector = { even: true };
  const even = await collected(db.changesReader.spool({ since: 0, batchSize: 4, selector }));
  assert.deepEqual(even.ids, ids.filter((_, n) => n % 2 === 0));
  const missing = nano.use("no-such-db").changesReader.start({ since: 0 });
  const [error] = await once(missing, "error");
  assert.equal(error.statusCode, 404);
});

check("a reader that listens", async () => {
  const db = await newDatabase();
  await fill(db, 3);
  const seen = [];
  const reader = db.changesReader;
  const events = reader.start({ since: 0, wait: true, includeDocs: true });
  events.on("change", ({ doc }) => seen.push(doc._id));
  events.on("batch", () => setTimeout(() => reader.resume(), 10));
  events.on("error", () => {}); // the request that is under way when it stops
  await until(() => seen.length === 3);
  await db.insert({}, "later");
  await until(() => seen.length === 4);
  reader.stop();
  await once(events, "end");
  assert.deepEqual(seen, ["0000", "0001", "0002", "later"]);
});

// --- replication ----------------------------------------------------------------------

check("a replication that is done once", async () => {
  const [source, target] = [await newDatabase(), "nano/copy"];
  await fill(source, 12);
  const done = await source.replicate(target, { create_target: true, selector: { even: true } });
  assert.deepEqual([done.ok, done.history[0].docs_written], [true, 6]);
  assert.equal((await nano.db.get(target)).doc_count, 6);
  const again = await nano.db.replicate(source, nano.use(target), { selector: { even: true } });
  assert.ok(again.no_changes);
});

check("a replication that goes on until it is disabled", async () => {
  const [source, target] = [await newDatabase(), await newDatabase()];
  const options = { continuous: true };
  const { id } = await source.replication.enable(target.config.db, options);
  await fill(source, 5);
  await until(async () => (await target.info()).doc_count === 5);
  const { _rev } = await source.replication.query(id);
  await source.replication.disable(id, _rev);
  await assert.rejects(source.replication.query(id), refused(404, "not_found"));
});
