/** Who is it? With the users and passwords of the server's configuration. */

import { useState } from "preact/hooks";
import { ApiError, request } from "../api";
import { Failure } from "../parts";

export function Login({ onDone }: { onDone: () => Promise<void> }) {
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const password = form.get("password");
    setBusy(true);
    setError(undefined);
    try {
      await request("POST", "/_session", { body: { name: form.get("name"), password } });
      await onDone();
    } catch (problem) {
      setError(
        problem instanceof ApiError && problem.status === 401
          ? new Error("The name or the password is wrong.")
          : problem,
      );
      setBusy(false);
    }
  };
  return (
    <main class="login">
      <form onSubmit={submit}>
        <span class="mark" aria-hidden="true" />
        <h1>Log in</h1>
        <p class="hint">With a user of this agent's configuration.</p>
        <label>
          Name
          <input name="name" autocomplete="username" required autofocus spellcheck={false} />
        </label>
        <label>
          Password
          <input name="password" type="password" autocomplete="current-password" required />
        </label>
        {error !== undefined && <Failure error={error} />}
        <button type="submit" class="primary" disabled={busy}>
          Log in
        </button>
      </form>
    </main>
  );
}
