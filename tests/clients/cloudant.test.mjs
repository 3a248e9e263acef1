// IBM's Node.js SDK for Cloudant, unmodified, with a real hub. `test_node_clients.py` runs it.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { buffer, json, text } from "node:stream/consumers";

import { check, content, hub, numbered, require, until, urlFor } from "./support.mjs";

const {
  BasicAuthenticator,
  ChangesFollower,
  CloudantV1,
  CouchdbSessionAuthenticator,
  PagerType,
  Pagination,
} = require("@ibm-cloud/cloudant");

function connected({ name, password }, Authenticator = CouchdbSessionAuthenticator) {
  const authenticator = new Authenticator({ username: name, password });
  return CloudantV1.newInstance({ authenticator, serviceUrl: hub.url });
}

const client = connected(hub.admin);

/** What an operation of the SDK answers. */
async function result(operation, params, service = client) {
  return (await service[operation](params)).result;
}

let databases = 0;

/** The name of an empty database. It needs escaping in a URL. */
async function newDatabase() {
  const db = `cloudant/db+${++databases}`;
  await client.putDatabase({ db });
  return db;
}

async function fill(db, count) {
  const bulkDocs = { docs: numbered(count) };
  const results = await result("postBulkDocs", { db, bulkDocs });
  assert.ok(results.every(({ ok }) => ok));
  return results;
}

/** The error of the SDK that CouchDB's status and words have become. */
function refused(code, error, reason) {
  return (caught) => {
    assert.equal(caught.code, code);
    assert.equal(caught.result.error, error);
    assert.match(caught.result.reason, reason ?? /./);
    if (code !== 401 && code !== 403) { // for these the SDK has words of its own
      assert.equal(caught.message, `${error}: ${caught.result.reason}`);
    }
    return true;
  };
}

const idsOf = (rows) => rows.map(({ id }) => id);

// --- the server and its users ---------------------------------------------------------

check("what the server tells", async () => {
  assert.equal((await result("getServerInformation")).couchdb, "Welcome");
  assert.equal((await result("getUpInformation")).status, "ok");
  assert.equal((await client.headUpInformation()).status, 200);
  assert.equal(new Set((await result("getUuids", { count: 5 })).uuids).size, 5);
  assert.ok(Array.isArray(await result("getActiveTasks")));
});

for (const [Authenticator, way] of [
  [CouchdbSessionAuthenticator, "cookie"],
  [BasicAuthenticator, "default"],
]) {
  check(`logging in by ${way}`, async () => {
    const member = connected(hub.member, Authenticator);
    const { userCtx, info } = await result("getSessionInformation", {}, member);
    assert.deepEqual([userCtx.name, info.authenticated], [hub.member.name, way]);
    await assert.rejects(member.putDatabase({ db: "not-by-mia" }), refused(401, "unauthorized"));
    const wrong = connected({ ...hub.member, password: "wrong" }, Authenticator);
    await assert.rejects(wrong.getAllDbs(), { code: 401 });
  });
}

check("databases", async () => {
  const db = await newDatabase();
  await assert.rejects(client.putDatabase({ db }), refused(412, "file_exists"));
  const capital = client.putDatabase({ db: "Capital" });
  await assert.rejects(capital, refused(400, "illegal_database_name"));
  assert.equal((await client.headDatabase({ db })).status, 200);
  assert.equal((await result("getDatabaseInformation", { db })).docCount, 0);
  assert.ok((await result("getAllDbs")).includes(db));
  const [here, missing] = await result("postDbsInfo", { keys: [db, "no-such-db"] });
  assert.equal(here.info.dbName, db);
  assert.deepEqual(missing, { key: "no-such-db", error: "not_found" });
  assert.ok((await result("deleteDatabase", { db })).ok);
  await assert.rejects(client.getDatabaseInformation({ db }), refused(404, "not_found"));
});

check("letting a member in", async () => {
  const db = await newDatabase();
  const member = connected(hub.member);
  await assert.rejects(member.getDatabaseInformation({ db }), refused(403, "forbidden"));
  const members = { names: [hub.member.name], roles: [] };
  assert.ok((await result("putSecurity", { db, members })).ok);
  assert.deepEqual((await result("getSecurity", { db })).members, members);
  assert.ok((await result("postDocument", { db, document: { by: "a member" } }, member)).ok);
  await assert.rejects(member.putSecurity({ db, members: {} }), refused(403, "forbidden"));
});

// --- documents ------------------------------------------------------------------------

check("writing and reading a document", async () => {
  const db = await newDatabase();
  const docId = "ä/☃ +%20?";
  const first = await result("putDocument", { db, docId, document: { v: 1, "°": [null] } });
  const read = await client.getDocument({ db, docId });
  assert.deepEqual(read.result, { _id: docId, _rev: first.rev, v: 1, "°": [null] });
  assert.equal((await client.headDocument({ db, docId })).headers.etag, read.headers.etag);
  const unchanged = client.getDocument({ db, docId, ifNoneMatch: read.headers.etag });
  await assert.rejects(unchanged, { code: 304 });

  const document = { _id: docId, _rev: first.rev, v: 2 };
  const second = await result("postDocument", { db, document });
  await assert.rejects(client.postDocument({ db, document }), refused(409, "conflict"));
  const stale = { db, docId, document: {}, ifMatch: first.rev };
  await assert.rejects(client.putDocument(stale), refused(409, "conflict"));
  assert.equal((await result("getDocument", { db, docId, rev: first.rev })).v, 1);
  const told = await result("getDocument", { db, docId, revsInfo: true, localSeq: true });
  assert.deepEqual(told._revs_info.map(({ rev }) => rev), [second.rev, first.rev]);
  assert.equal((await json(await result("getDocumentAsStream", { db, docId }))).v, 2);

  assert.ok((await result("deleteDocument", { db, docId, rev: second.rev })).ok);
  await assert.rejects(client.getDocument({ db, docId }), refused(404, "not_found", /^deleted$/));
  await assert.rejects(client.headDocument({ db, docId }), { code: 404 });
});

check("a conflict that replication left", async () => {
  const db = await newDatabase();
  for (const leaf of ["b", "a"]) {
    const document = { _revisions: { start: 2, ids: [leaf, "root"] }, leaf };
    await client.putDocument({ db, docId: "x", document, rev: `2-${leaf}`, newEdits: false });
  }
  const doc = await result("getDocument", { db, docId: "x", conflicts: true });
  assert.deepEqual([doc.leaf, doc._conflicts], ["b", ["2-a"]]);
  await client.deleteDocument({ db, docId: "x", rev: "2-a" });
  assert.equal((await result("getDocument", { db, docId: "x", meta: true }))._conflicts, undefined);
  const documentRevisions = { x: ["2-b", "3-c"] };
  const diff = await result("postRevsDiff", { db, documentRevisions });
  assert.deepEqual(diff, { x: { missing: ["3-c"], possibleAncestors: ["2-b"] } });
});

check("many documents at once", async () => {
  const db = await newDatabase();
  await fill(db, 30);
  const bulkDocs = { docs: [{ _id: "0000" }, { _id: "more" }] };
  const [conflict, made] = await result("postBulkDocs", { db, bulkDocs });
  assert.deepEqual([conflict.error, made.ok], ["conflict", true]);
  const streamed = Readable.from([Buffer.from('{"docs":[{"_id":"streamed"}]}')]);
  assert.ok((await result("postBulkDocs", { db, bulkDocs: streamed }))[0].ok);

  const docs = [{ id: "0003" }, { id: "never" }, { id: "0001" }];
  const { results } = await result("postBulkGet", { db, docs, revs: true });
  assert.deepEqual(idsOf(results), ["0003", "never", "0001"]);
  assert.equal(results[0].docs[0].ok._revisions.start, 1);
  assert.equal(results[1].docs[0].error.error, "not_found");
  assert.equal((await json(await result("postBulkGetAsStream", { db, docs }))).results.length, 3);
  for (const kind of ["Mixed", "Related"]) {
    const parts = await client[`postBulkGetAs${kind}`]({ db, docs });
    assert.match(parts.headers["content-type"], new RegExp(`^multipart/${kind.toLowerCase()}`));
    assert.match(await text(parts.result), /"_id":"0003"[^]*"not_found"[^]*"_id":"0001"/);
  }

  const listed = async (params) => idsOf((await result("postAllDocs", { db, ...params })).rows);
  assert.deepEqual(await listed({ startKey: "0003", endKey: "0004" }), ["0003", "0004"]);
  assert.deepEqual(await listed({ keys: ["0009", "0001"] }), ["0009", "0001"]);
  assert.deepEqual(await listed({ endKey: "1", descending: false, limit: 1, skip: 2 }), ["0002"]);
  const one = await result("postAllDocsAsStream", { db, key: "0007", includeDocs: true });
  assert.equal((await json(one)).rows[0].doc.n, 7);
  const queries = [{ keys: ["0001"] }, { limit: 2 }];
  const answers = (await result("postAllDocsQueries", { db, queries })).results;
  assert.deepEqual(answers.map(({ rows }) => rows.length), [1, 2]);
});

check("going through all documents page by page", async () => {
  const db = await newDatabase();
  await fill(db, 25);
  const pages = (type, params) =>
    Pagination.newPagination(client, type, { db, limit: 10, ...params });
  const pager = pages(PagerType.POST_ALL_DOCS).pager();
  const lengths = [];
  while (pager.hasNext()) {
    lengths.push((await pager.getNext()).length);
  }
  assert.deepEqual(lengths, [10, 10, 5]);
  const seen = [];
  for await (const row of pages(PagerType.POST_ALL_DOCS).rows()) {
    seen.push(row.id);
  }
  assert.deepEqual(seen, numbered(25).map(({ _id }) => _id));
  const found = await pages(PagerType.POST_FIND, { selector: { even: true } }).pager().getAll();
  assert.equal(found.length, 13);
});

check("design documents are stored and their functions refused", async () => {
  const db = await newDatabase();
  const ddoc = "d";
  const designDocument = { views: { "by-n": { map: "function (doc) { emit(doc.n) }" } } };
  const { rev } = await result("putDesignDocument", { db, ddoc, designDocument });
  assert.equal((await client.headDesignDocument({ db, ddoc })).status, 200);
  assert.ok((await result("getDesignDocument", { db, ddoc })).views["by-n"]);
  assert.deepEqual(idsOf((await result("postDesignDocs", { db })).rows), ["_design/d"]);
  const queries = [{ limit: 1 }];
  assert.equal((await result("postDesignDocsQueries", { db, queries })).results.length, 1);
  const view = client.postView({ db, ddoc, view: "by-n" });
  await assert.rejects(view, refused(501, "not_implemented", /_find/));
  assert.ok((await result("deleteDesignDocument", { db, ddoc, rev })).ok);
});

check("local documents", async () => {
  const db = await newDatabase();
  const docId = "state";
  await client.putLocalDocument({ db, docId, document: { at: 7 } });
  assert.equal((await result("getLocalDocument", { db, docId })).at, 7);
  assert.equal((await client.headLocalDocument({ db, docId })).status, 200);
  assert.ok((await result("deleteLocalDocument", { db, docId })).ok);
  await assert.rejects(client.getLocalDocument({ db, docId }), refused(404, "not_found"));
});

// --- queries --------------------------------------------------------------------------

check("indexes and queries", async () => {
  const db = await newDatabase();
  await fill(db, 25);
  const query = {
    db,
    selector: { n: { $gte: 5 } },
    fields: ["n"],
    sort: [{ n: "desc" }],
    limit: 8,
  };
  await assert.rejects(client.postFind(query), refused(400, "no_usable_index"));
  const index = { db, index: { fields: [{ n: "asc" }] }, ddoc: "by-n", name: "n", type: "json" };
  assert.equal((await result("postIndex", index)).result, "created");
  assert.equal((await result("postIndex", index)).result, "exists");
  const { indexes } = await result("getIndexesInformation", { db });
  assert.deepEqual(indexes.map(({ name }) => name), ["_all_docs", "n"]);
  assert.equal((await result("postExplain", query)).index.ddoc, "_design/by-n");
  const seen = [];
  let page = await result("postFind", query);
  while (page.docs.length) {
    seen.push(...page.docs.map(({ n }) => n));
    page = await result("postFind", { ...query, bookmark: page.bookmark });
  }
  assert.deepEqual(seen, Array.from({ length: 20 }, (_, n) => 24 - n));
  const streamed = await result("postFindAsStream", { ...query, executionStats: true });
  assert.equal((await json(streamed)).execution_stats.results_returned, 8);
  const removed = { db, ddoc: "by-n", type: "json", index: "n" };
  assert.ok((await result("deleteIndex", removed)).ok);
  const wrong = client.postFind({ db, selector: { n: { $never: 1 } } });
  await assert.rejects(wrong, refused(400, "invalid_operator"));
});

// --- attachments ----------------------------------------------------------------------

check("attachments", async () => {
  const db = await newDatabase();
  const where = { db, docId: "x", attachmentName: "ä/b.bin" };
  const put = { ...where, attachment: Readable.from([content]), contentType: "image/png" };
  const { rev } = await result("putAttachment", put);
  const read = await client.getAttachment(where);
  assert.equal(read.headers["content-type"], "image/png");
  assert.deepEqual(await buffer(read.result), content);
  assert.equal((await client.headAttachment(where)).headers.etag, read.headers.etag);
  const stub = (await result("getDocument", { db, docId: "x" }))._attachments["ä/b.bin"];
  assert.deepEqual([stub.stub, stub.length], [true, content.length]);
  const whole = await client.getDocumentAsRelated({ db, docId: "x", attachments: true });
  assert.match(whole.headers["content-type"], /^multipart\/related/);
  assert.match(await text(whole.result), /"follows":true/);
  const stale = client.deleteAttachment({ ...where, rev: "1-abc" });
  await assert.rejects(stale, refused(409, "conflict"));
  assert.ok((await result("deleteAttachment", { ...where, rev })).ok);
  await assert.rejects(client.getAttachment(where), refused(404, "not_found", /attachment/));
});

// --- changes --------------------------------------------------------------------------

check("changes", async () => {
  const db = await newDatabase();
  await fill(db, 6);
  const changed = (params) => result("postChanges", { db, ...params });
  const all = await changed({ includeDocs: true });
  assert.deepEqual(all.results.map(({ doc }) => doc.n), [0, 1, 2, 3, 4, 5]);
  const page = await changed({ limit: 2 });
  assert.equal(page.pending, 4);
  const rest = await changed({ since: page.lastSeq });
  assert.deepEqual(idsOf(rest.results), ["0002", "0003", "0004", "0005"]);
  const some = await changed({ filter: "_doc_ids", docIds: ["0004", "0001"] });
  assert.deepEqual(idsOf(some.results), ["0001", "0004"]);
  const nothing = await changed({ feed: "longpoll", since: "now", timeout: 50 });
  assert.deepEqual(nothing.results, []);
  const continuous = { db, feed: "continuous", timeout: 50 };
  const lines = [];
  const input = await result("postChangesAsStream", continuous);
  for await (const line of createInterface({ input })) {
    lines.push(JSON.parse(line));
  }
  assert.equal(lines.length, 7);
  assert.equal(lines.pop().last_seq, all.lastSeq);
});

/** The changes that a follower has until it ends. */
async function collected(stream) {
  const changes = [];
  for await (const change of stream) {
    changes.push(change);
  }
  return changes;
}

check("a follower that runs to the end and starts again there", async () => {
  const db = await newDatabase();
  await fill(db, 20);
  const follower = new ChangesFollower(client, { db, includeDocs: true });
  const changes = await collected(follower.startOneOff());
  assert.deepEqual(changes.map(({ doc }) => doc.n), numbered(20).map(({ n }) => n));
  await client.postDocument({ db, document: { _id: "later" } });
  const again = new ChangesFollower(client, { db, since: changes.at(-1).seq });
  assert.deepEqual(idsOf(await collected(again.startOneOff())), ["later"]);
  const selector = { even: true };
  const even = new ChangesFollower(client, { db, filter: "_selector", selector, limit: 3 });
  assert.deepEqual(idsOf(await collected(even.startOneOff())), ["0000", "0002", "0004"]);
  const [error] = await once(new ChangesFollower(client, { db: "no-such-db" }).start(), "error");
  assert.equal(error.code, 404);
});

check("a follower that listens until it is stopped", async () => {
  const db = await newDatabase();
  await fill(db, 3);
  const follower = new ChangesFollower(client, { db, since: "0" });
  const seen = [];
  const stream = follower.start().on("data", ({ id }) => seen.push(id));
  await until(() => seen.length === 3);
  await client.postDocument({ db, document: { _id: "later" } });
  await until(() => seen.length === 4);
  const ended = once(stream, "end");
  follower.stop();
  // The SDK waits for the request that is under way, and a change ends that.
  await client.postDocument({ db, document: { _id: "last" } });
  await ended;
  assert.deepEqual(seen.slice(0, 4), ["0000", "0001", "0002", "later"]);
});

// --- replication ----------------------------------------------------------------------

const addressOf = (db) => ({ url: `${urlFor(hub.admin)}/${encodeURIComponent(db)}` });

check("a replication that is done once", async () => {
  const [source, target] = [await newDatabase(), "cloudant/copy"];
  await fill(source, 12);
  const replicationDocument = {
    source: addressOf(source),
    target: addressOf(target),
    create_target: true,
    selector: { even: true },
  };
  const docId = "cloudant-once";
  await client.putReplicationDocument({ docId, replicationDocument });
  const state = async () => (await result("getSchedulerDocument", { docId })).state;
  await until(async () => (await state()) === "completed");
  assert.equal((await result("getDatabaseInformation", { db: target })).docCount, 6);
  const doc = await result("getReplicationDocument", { docId });
  assert.equal(doc._replication_stats.docs_written, 6);
  assert.ok((await result("deleteReplicationDocument", { docId, rev: doc._rev })).ok);
});

check("a replication that goes on", async () => {
  const [source, target] = [await newDatabase(), await newDatabase()];
  const replicationDocument = {
    source: addressOf(source),
    target: addressOf(target),
    continuous: true,
  };
  const { id: docId } = await result("postReplicator", { replicationDocument });
  const running = async () =>
    (await result("getSchedulerDocs", { states: ["running"] })).docs.find(
      (doc) => doc.docId === docId,
    );
  await until(running);
  const { id: jobId } = await running();
  assert.equal((await result("getSchedulerJob", { jobId })).docId, docId);
  assert.ok(idsOf((await result("getSchedulerJobs", {})).jobs).includes(jobId));
  await fill(source, 5);
  const count = async () => (await result("getDatabaseInformation", { db: target })).docCount;
  await until(async () => (await count()) === 5);
  const { _rev } = await result("getReplicationDocument", { docId });
  assert.ok((await result("deleteReplicationDocument", { docId, rev: _rev })).ok);
});
