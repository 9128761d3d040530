// node paint.mjs BRAND PROMPT [FILE] [COUNT]: paints pictures, writes them, and prints where the time went.
// LOOKSMITH_ROUTERS, LOOKSMITH_TOKEN, LOOKSMITH_TLS_CA, LOOKSMITH_TLS_CERT and LOOKSMITH_TLS_KEY as for `looksmith`.

import { writeFileSync } from 'node:fs';
import { Looksmith, LooksmithError, milliseconds } from './looksmith.mjs';

const [brand, prompt, file = 'picture.png', count = '1'] = process.argv.slice(2);
if (!brand || !prompt) {
  console.error('usage: node paint.mjs BRAND PROMPT [FILE] [COUNT]');
  process.exit(2);
}
const { env } = process;
const looksmith = new Looksmith({
  routers: (env.LOOKSMITH_ROUTERS ?? '127.0.0.1:7400').split(','),
  token: env.LOOKSMITH_TOKEN,
  ca: env.LOOKSMITH_TLS_CA,
  cert: env.LOOKSMITH_TLS_CERT,
  key: env.LOOKSMITH_TLS_KEY,
});
const leaving = new AbortController();
process.once('SIGINT', () => leaving.abort(new Error('stopped by Ctrl-C')));

try {
  const { images, blocked, finished } = await looksmith.paint(
    { brand, prompt, count: Number(count), reportSteps: true },
    {
      signal: leaving.signal,
      onEvent: ({ event, queued, placed, step }) => {
        if (event === 'queued') console.error(`waits: ${queued.reason}`);
        if (event === 'placed') console.error(`${placed.worker}: ${placed.reason}`);
        if (event === 'step') console.error(`image ${step.image}, step ${step.step} of ${step.steps}`);
      },
    },
  );
  images.forEach((image, index) => {
    const path = index ? file.replace(/(\.\w+)?$/, `-${index}$1`) : file;
    writeFileSync(path, image.data);
    console.log(`${path}: ${image.width} x ${image.height}, seed ${image.seed}`);
  });
  blocked.forEach(({ reason }, index) => console.log(`image ${index} is withheld: ${reason}`));
  const { worker, adapters, timings } = finished;
  const used = adapters.map(({ adapter, version }) => `${adapter}@${version}`).join(', ') || 'the base alone';
  const told = ['queue', 'wait', 'swapVisible', 'denoise', 'vaeDecode', 'imageEncode', 'total'];
  console.log(`${used} on ${worker}`);
  console.log(told.map((name) => `${name} ${milliseconds(timings?.[name]).toFixed(1)} ms`).join(', '));
} catch (error) {
  const again = error.retryAfterMs === undefined ? '' : `; try again in ${error.retryAfterMs} ms`;
  console.error(error instanceof LooksmithError ? `${error.reason}: ${error.message}${again}` : error.message);
  process.exitCode = 1;
} finally {
  looksmith.close();
}
