'use strict';
// The HTTP server that the engine and the analytics share: health, version, work, knobs, and each role's own routes.

const fs = require('node:fs');
const http = require('node:http');
const { HttpError, numberParameter, parseUrl, readBody } = require('./request.js');
const knobs = require('./knobs.js');

// Read once: a process serves the release that was deployed when it started.
const release = readRelease();

/**
 * Serves `routes`, a map from "METHOD /path" to a function of (url, body) that returns what is answered as JSON.
 */
function serve(name, routes) {
  const all = {
    'GET /health': () => ({ status: 'ok', service: name, pid: process.pid, uptime: process.uptime() }),
    'GET /version': () => ({ release }),
    ...routes,
    ...knobs.routes,
  };
  let stopping = false;
  const server = http.createServer((request, response) => {
    answer(all, request)
      .catch(refusal)
      .then(async ({ status, value }) => {
        await knobs.lateness(request.url);
        // A connection that stayed open after its answer would keep the server from closing.
        if (stopping) response.setHeader('connection', 'close');
        const text = JSON.stringify(value) + '\n';
        response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
        response.end(text);
      });
  });
  server.on('error', (error) => {
    console.error(`${name}: cannot listen: ${error.message}`);
    process.exit(1);
  });
  const host = process.env.HOST || '127.0.0.1';
  server.listen(Number(process.env.PORT || 3000), host, () => {
    console.log(`${name}: release ${release}, pid ${process.pid}, on ${host}:${server.address().port}`);
    // Processes started with an IPC channel can say that they are ready (PM2: wait_ready).
    if (process.send) process.send('ready');
  });
  if (process.env.GRACEFUL === '1') {
    const stop = () => {
      if (stopping) return;
      stopping = true;
      server.close(() => process.exit(0));
      server.closeIdleConnections();
    };
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
  }
}

/** Spins for `cpu_us` and holds `memory_kb` meanwhile. */
function work(url) {
  const cpuUs = numberParameter(url, 'cpu_us', { otherwise: 300, most: 10_000_000 });
  const memoryKb = numberParameter(url, 'memory_kb', { otherwise: 16, most: 1_048_576 });
  const end = process.hrtime.bigint() + BigInt(Math.round(cpuUs * 1000));
  // Filled, because memory that nobody writes to is never really taken.
  const held = Buffer.alloc(memoryKb * 1024, 1);
  while (process.hrtime.bigint() < end);
  return { cpu_us: cpuUs, memory_kb: held.length / 1024 };
}

async function answer(routes, request) {
  const url = parseUrl(request);
  const body = await readBody(request);
  const route = routes[`${request.method} ${url.pathname}`];
  if (!route) throw new HttpError(404, 'no such route');
  return { status: 200, value: await route(url, body) };
}

function refusal(error) {
  if (error instanceof HttpError) return { status: error.status, value: { error: error.message } };
  console.error(error);
  return { status: 500, value: { error: 'internal error' } };
}

function readRelease() {
  const file = process.env.RELEASE_FILE;
  if (!file) return 'unreleased';
  try {
    return fs.readFileSync(file, 'utf8').trim();
  } catch (error) {
    console.error(`cannot read the release: ${error.message}`);
    return 'unreleased';
  }
}

module.exports = { serve, work };
