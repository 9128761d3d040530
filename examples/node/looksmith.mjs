// A client of Looksmith's routers: paints a request, and goes on where a router or a worker is lost on the way.
// Made from the .proto files when it is loaded; nothing is generated.

import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const definitions = protoLoader.loadSync(['looksmith/v1/generation.proto', here('errors.proto')], {
  includeDirs: [process.env.LOOKSMITH_PROTOS ?? here('../../protos')],
  longs: String, // a seed has 64 bits, a number of JavaScript 53
  enums: String,
  defaults: true,
  oneofs: true, // message.event names the one that is set
});
const { ImageGenerationService } = grpc.loadPackageDefinition(definitions).looksmith.v1;

// A router that is gone without a word is noticed within about two seconds.
const OPTIONS = { 'grpc.keepalive_time_ms': 1000, 'grpc.keepalive_timeout_ms': 1000 };
const MOST_TRIES = 5;

// What a server answered. Act on `reason`, which stays the same; `message` is for people.
export class LooksmithError extends Error {
  constructor(error) {
    super(error.details || error.message);
    this.code = grpc.status[error.code]; // such as NOT_FOUND
    this.reason = this.code;
    this.facts = {};
    this.violations = []; // of INVALID_ARGUMENT: field, description, reason
    this.retryAfterMs = undefined; // when it makes sense to come back
    const [packed] = error.metadata?.get('grpc-status-details-bin') ?? [];
    const details = packed ? definitions['google.rpc.Status'].deserialize(packed).details : [];
    for (const { type_url: url, value } of details) this.#take(url.split('/').pop(), value);
  }

  #take(type, bytes) {
    const detail = definitions[type]?.deserialize(bytes);
    if (type === 'google.rpc.ErrorInfo') [this.reason, this.facts] = [detail.reason, detail.metadata];
    if (type === 'google.rpc.BadRequest') this.violations = detail.fieldViolations;
    if (type === 'google.rpc.RetryInfo') this.retryAfterMs = milliseconds(detail.retryDelay);
  }
}

export const milliseconds = (duration) => Number(duration?.seconds ?? 0) * 1000 + (duration?.nanos ?? 0) / 1e6;

export class Looksmith {
  #clients;
  #metadata = new grpc.Metadata();
  #turn = 0;

  // routers: HOST:PORT, tried in turn. ca: a PEM file; set, routers are dialled by TLS and checked by it. cert and
  // key: this caller's own, for mutual TLS.
  constructor({ routers, token, ca, cert, key }) {
    const read = (file) => (file ? readFileSync(file) : null);
    const credentials = ca
      ? grpc.credentials.createSsl(read(ca), read(key), read(cert))
      : grpc.credentials.createInsecure();
    this.#clients = routers.map((router) => new ImageGenerationService(router, credentials, OPTIONS));
    if (token) this.#metadata.set('authorization', `Bearer ${token}`);
  }

  close() {
    for (const client of this.#clients) client.close();
  }

  // Paints all pictures of a request, its fields as in generation.proto but in camel case. An AbortSignal cancels it;
  // the worker then stops within one step. Resolves to { accepted, images, blocked, finished }; an image is
  // { data, seed, sha256, width, height, ... } at its index.
  async paint(request, { timeoutMs = 180_000, signal, onEvent = () => {} } = {}) {
    const deadline = Date.now() + timeoutMs;
    // With an id of its own a request can be repeated: it is painted once, whatever is lost on the way.
    const held = { request: { requestId: randomUUID(), ...request }, images: [], blocked: [] };
    for (let tried = 1; ; tried += 1) {
      try {
        await this.#attempt(held, { deadline, signal, onEvent });
        return held;
      } catch (error) {
        const waitMs = this.#waitMs(error, held, tried);
        if (waitMs === undefined || Date.now() + waitMs >= deadline) throw error;
        this.#turn += 1;
        await sleep(waitMs, undefined, { signal });
      }
    }
  }

  // How long to wait before another try; undefined: another one would end as this one did.
  #waitMs(error, held, tried) {
    if (!(error instanceof LooksmithError) || tried === MOST_TRIES) return undefined;
    const lost = error.code === 'UNAVAILABLE' && error.reason === 'UNAVAILABLE'; // gRPC alone says so
    const elsewhere = held.accepted || this.#clients.length > 1;
    return error.retryAfterMs ?? (lost && elsewhere ? 50 * 2 ** tried : undefined);
  }

  #attempt(held, { deadline, signal, onEvent }) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const parts = new Map(); // chunks of images that are not complete
      const client = this.#clients[this.#turn % this.#clients.length];
      const call = client.generate(next(held), this.#metadata, { deadline });
      const cancel = () => call.cancel();
      signal?.addEventListener('abort', cancel, { once: true });
      const settle = (how, value) => {
        signal?.removeEventListener('abort', cancel);
        how(value);
      };
      call.on('data', (message) => {
        try {
          take(held, parts, message);
          onEvent(message);
        } catch (error) {
          call.cancel();
          settle(reject, error);
        }
      });
      call.on('end', () =>
        held.finished ? settle(resolve) : settle(reject, new Error('the stream ended before it was finished')),
      );
      call.on('error', (error) => settle(reject, signal?.aborted ? signal.reason : new LooksmithError(error)));
    });
  }
}

// The request as the next try sends it: pinned to what the first one was told, without the images that are here.
function next({ request, accepted, images, blocked }) {
  const imagesDone = Array.from({ length: request.count ?? 1 }, (_, i) => i).filter((i) => images[i] || blocked[i]);
  if (!accepted) return { ...request, imagesDone };
  const { seed, recipe, width, height, adapters } = accepted;
  const pinned = adapters.map(({ adapter, version, weight }) => ({ adapter, version, weight }));
  return { ...request, seed, recipe, width, height, adapters: pinned, noAdapters: !pinned.length, imagesDone };
}

function take(held, parts, { event, ...message }) {
  const told = message[event];
  switch (event) {
    case 'accepted':
      held.accepted ??= told;
      break;
    case 'chunk':
      parts.set(told.image, [...(parts.get(told.image) ?? []), told.data]);
      break;
    case 'imageRestarted': // another worker sends it from the start
      parts.delete(told.image);
      break;
    case 'imageDone': {
      const data = Buffer.concat(parts.get(told.image) ?? []);
      parts.delete(told.image);
      if (!held.request.omitImageBytes && createHash('sha256').update(data).digest('hex') !== told.sha256) {
        throw new Error(`image ${told.image} arrived damaged`);
      }
      held.images[told.image] = { ...told, data };
      break;
    }
    case 'imageBlocked': // the recipe's safety checker withholds it
      parts.delete(told.image);
      held.blocked[told.image] = told;
      break;
    case 'finished':
      held.finished = told;
      break;
    default: // queued, placed, swapped, step, preview, and what newer servers may tell
  }
}
