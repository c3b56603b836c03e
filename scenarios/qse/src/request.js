'use strict';
// Reading requests: numbers from the query, a bounded body, and errors that carry their status.

const BODY_LIMIT_BYTES = 64 * 1024;

class HttpError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function numberParameter(url, name, { otherwise, most }) {
  const text = url.searchParams.get(name);
  if (text === null) return otherwise;
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value < 0 || value > most) {
    throw new HttpError(400, `${name} must be a number from 0 to ${most}`);
  }
  return value;
}

function parseUrl(request) {
  try {
    return new URL(request.url, 'http://localhost');
  } catch {
    throw new HttpError(400, 'not a path');
  }
}

async function readBody(request) {
  const chunks = [];
  let length = 0;
  try {
    for await (const chunk of request) {
      length += chunk.length;
      // Read to the end even so: an answer before the end of a body looks like a reset to many clients.
      if (length <= BODY_LIMIT_BYTES) chunks.push(chunk);
    }
  } catch {
    throw new HttpError(400, 'the request was cut off');
  }
  if (length > BODY_LIMIT_BYTES) throw new HttpError(413, `body is over ${BODY_LIMIT_BYTES} bytes`);
  return Buffer.concat(chunks);
}

module.exports = { HttpError, numberParameter, parseUrl, readBody };
