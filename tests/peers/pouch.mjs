// Wraps the real PouchDB client for a program in another language.
//
// It reads one request a line from its standard input and writes one answer a line:
//     {"id": 1, "op": "put", "db": "a", "args": [{"_id": "x"}]}
//     {"id": 1, "result": {"ok": true, …}}   or   {"id": 1, "error": {"status": 409, …}}
// A live replication also writes {"live": 7, "event": "paused", "data": …}, and a promise that was
// rejected and that nobody handles {"unhandled": {"name": "FetchError", …}}. It ends with its input.

import PouchDB from "pouchdb";
import memoryAdapter from "pouchdb-adapter-memory";
import find from "pouchdb-find";
import replicationId from "pouchdb-generate-replication-id";
import readline from "node:readline";

PouchDB.plugin(memoryAdapter);
PouchDB.plugin(find.default ?? find);
const generateReplicationId = replicationId.default ?? replicationId;

const databases = new Map();
const liveReplications = new Map();

function send(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

function describe(error) {
  const { status, name, code, message, reason, docId, result } = error;
  return { status, name, code, message: String(message ?? error), reason, docId, result };
}

function database(name) {
  const found = databases.get(name);
  if (!found) {
    throw new Error(`no database ${name} was opened`);
  }
  return found;
}

function replicate(name, direction, remote, options) {
  const local = database(name);
  switch (direction) {
    case "to":
      return local.replicate.to(remote, options);
    case "from":
      return local.replicate.from(remote, options);
    case "both":
      return local.sync(remote, options);
    default:
      throw new Error(`no direction ${direction}`);
  }
}

// These need more than a method call. All others are PouchDB's own methods, by their own names.
const operations = {
  async open(name, path, options) {
    databases.set(name, new PouchDB(path, options));
    return databases.get(name).info();
  },

  async close(name) {
    await database(name).close();
    databases.delete(name);
  },

  async destroy(name) {
    await database(name).destroy();
    databases.delete(name);
  },

  async getAttachment(name, ...args) {
    const content = await database(name).getAttachment(...args);
    return content.toString("base64");
  },

  async putAttachment(name, id, attachment, rev, content, type) {
    const bytes = Buffer.from(content, "base64");
    return database(name).putAttachment(id, attachment, rev ?? undefined, bytes, type);
  },

  async replicate(name, direction, remote, options) {
    return replicate(name, direction, remote, options);
  },

  async live(name, key, direction, remote, options) {
    const replication = replicate(name, direction, remote, { ...options, live: true });
    liveReplications.set(key, replication);
    for (const event of ["active", "paused", "change", "denied", "complete", "error"]) {
      replication.on(event, (data) => {
        send({ live: key, event, data: data instanceof Error ? describe(data) : data ?? null });
      });
    }
    // The "error" event has told it already.
    replication.catch(() => {});
  },

  async stopLive(name, key) {
    const replication = liveReplications.get(key);
    liveReplications.delete(key);
    const ended = replication.catch(() => {});
    replication.cancel();
    await ended;
  },

  async checkpoint(name, direction, remote, options) {
    const local = database(name);
    const other = new PouchDB(remote);
    const [source, target] = direction === "to" ? [local, other] : [other, local];
    const id = await generateReplicationId(source, target, options);
    const read = (db) =>
      db.get(id).catch((error) => {
        if (error.status === 404) {
          return null;
        }
        throw error;
      });
    return { id, local: await read(local), remote: await read(other) };
  },
};

async function answer({ id, op, db, args }) {
  try {
    const result = Object.hasOwn(operations, op)
      ? await operations[op](db, ...args)
      : await database(db)[op](...args);
    send({ id, result: result ?? null });
  } catch (error) {
    send({ id, error: describe(error) });
  }
}

// PouchDB has such promises: a replication asks its source how far it is, for a display alone. By
// itself Node.js would end with the first that is rejected.
process.on("unhandledRejection", (error) => send({ unhandled: describe(error ?? {}) }));

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => answer(JSON.parse(line)));
lines.on("close", () => process.exit(0));
