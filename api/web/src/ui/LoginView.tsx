import { useSignal } from "@preact/signals";
import { useApp } from "./context";
import { Logo } from "./Sidebar";

/** Asks for a bearer token. It is kept in memory: a reload asks again. */
export function LoginView() {
  const { session } = useApp();
  const token = useSignal("");
  return (
    <main class="login">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (token.value.trim() !== "") session.open(token.value);
        }}
      >
        <Logo />
        <h1>mini-chat</h1>
        <p>Sign in with an access token of your identity provider. It stays in the memory of this tab.</p>
        {session.notice.value !== null && (
          <p class="notice" role="alert">
            {session.notice.value}
          </p>
        )}
        <label for="token">Access token</label>
        <textarea
          id="token"
          rows={4}
          spellcheck={false}
          autocomplete="off"
          autoFocus
          value={token.value}
          onInput={(event) => (token.value = event.currentTarget.value)}
        />
        <button type="submit" class="button primary" disabled={token.value.trim() === ""}>
          Sign in
        </button>
      </form>
    </main>
  );
}
