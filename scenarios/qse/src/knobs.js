'use strict';
// Ways to make a process misbehave on request, for the scenarios. Without QSE_KNOBS=1 each answers 403.

const { setTimeout: sleep } = require('node:timers/promises');
const { HttpError, numberParameter } = require('./request.js');

const DAY_MS = 24 * 3600 * 1000;
const leaked = [];
let late = { ms: 0, until: 0 };

const routes = {
  'POST /knobs/crash': allowed(() => {
    // After the answer has left, so that the caller knows that the knob was turned.
    setTimeout(() => process.exit(1), 10);
    return { crashing: true };
  }),
  'POST /knobs/hang': allowed((url) => {
    const ms = numberParameter(url, 'ms', { otherwise: Infinity, most: DAY_MS });
    setTimeout(() => block(ms), 10);
    return { hanging_ms: Number.isFinite(ms) ? ms : null };
  }),
  'POST /knobs/leak': allowed((url) => {
    const mb = numberParameter(url, 'mb', { otherwise: 10, most: 4096 });
    leaked.push(Buffer.alloc(mb * 1024 * 1024, 1));
    return { leaked_mb: leaked.reduce((sum, piece) => sum + piece.length, 0) / 1024 / 1024 };
  }),
  'POST /knobs/delay': allowed((url) => {
    const ms = numberParameter(url, 'ms', { otherwise: 100, most: DAY_MS });
    const forMs = numberParameter(url, 'for_ms', { otherwise: DAY_MS, most: DAY_MS });
    late = { ms, until: Date.now() + forMs };
    return { delay_ms: ms, for_ms: forMs };
  }),
};

/** Waits as long as the delay knob says; the knobs themselves are never late. */
async function lateness(path) {
  if (late.ms > 0 && Date.now() < late.until && !path.startsWith('/knobs/')) await sleep(late.ms);
}

function allowed(knob) {
  return (url) => {
    if (process.env.QSE_KNOBS !== '1') throw new HttpError(403, 'knobs are off; start with QSE_KNOBS=1');
    return knob(url);
  };
}

function block(ms) {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

module.exports = { lateness, routes };
