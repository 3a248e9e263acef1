// Follows the changes of a database for as long as its standard input is open, and writes the id of
// each change, a line each: `follow.mjs CLIENT DATABASE`. `test_restarts.py` runs it.

import { hub, require, urlFor } from "./support.mjs";

const followers = {
  nano(db, seen) {
    const reader = require("nano")(urlFor(hub.admin)).use(db).changesReader;
    reader.start({ since: 0 }).on("change", seen).on("error", () => {}); // it tries again by itself
  },

  cloudant(db, seen) {
    const { ChangesFollower, CloudantV1, CouchdbSessionAuthenticator } =
      require("@ibm-cloud/cloudant");
    const { name: username, password } = hub.admin;
    const authenticator = new CouchdbSessionAuthenticator({ username, password });
    const client = CloudantV1.newInstance({ authenticator, serviceUrl: hub.url });
    new ChangesFollower(client, { db, since: "0" }).start().on("data", seen);
  },
};

const [client, db] = process.argv.slice(2);
followers[client](db, ({ id }) => console.log(id));
process.stdin.on("end", () => process.exit()).resume();
