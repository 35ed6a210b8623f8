/** Keeps the end of a growing conversation in view, until the reader scrolls away from it. */

const NEAR_PX = 60;

export class Follower {
  #isFollowing = true;
  #lastTop = 0;
  readonly #observer: ResizeObserver;

  /** @param onAway told when the reader leaves the end, and when they are back. */
  constructor(
    private readonly scroller: HTMLElement,
    private readonly onAway: (isAway: boolean) => void,
  ) {
    scroller.addEventListener("scroll", this.#onScroll, { passive: true });
    this.#observer = new ResizeObserver(() => this.grown());
    this.#observer.observe(scroller);
  }

  /** The content has grown. */
  grown(): void {
    if (this.#isFollowing) this.#jump();
  }

  toEnd(): void {
    this.#follow(true);
    this.#jump();
  }

  dispose(): void {
    this.scroller.removeEventListener("scroll", this.#onScroll);
    this.#observer.disconnect();
  }

  readonly #onScroll = (): void => {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const below = scrollHeight - scrollTop - clientHeight;
    // Content that grows moves the end away without anybody scrolling: only a move upwards is the reader's, however
    // small. One that ends at the end is none: the content has become shorter.
    if (scrollTop < this.#lastTop && below > 1) this.#follow(false);
    else if (below < NEAR_PX) this.#follow(true);
    this.#lastTop = scrollTop;
  };

  #follow(isFollowing: boolean): void {
    if (this.#isFollowing === isFollowing) return;
    this.#isFollowing = isFollowing;
    this.onAway(!isFollowing);
  }

  #jump(): void {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#lastTop = this.scroller.scrollTop;
  }
}
