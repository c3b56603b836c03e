// Loaded into a worker before the application, with `node --require`. It does nothing until the primary begins the
// drain. Then connections that are between two requests are not cut off at once, as `server.close()` does it, nor left
// open for ever: each response says `Connection: close`, and what is idle is closed after a grace, by when the clients
// have either asked once more and read that, or gone away. HTTP/2 sessions are told to go away.
//
// It is inert in every process and thread but the worker itself: the variable that it needs is removed here, so nothing
// the application starts inherits it. Upgraded connections, such as WebSockets, are left alone; so is every server that
// is not an HTTP server.
'use strict';

(() => {
  const GRACE = 'QBENCH_DRAIN_GRACE_MS';
  const grace = process.env[GRACE];
  delete process.env[GRACE];
  // Whoever has this in a process of another kind has no primary to be drained by.
  if (grace === undefined || !process.channel || !require('cluster').isWorker) return;

  const net = require('net');
  const graceMs = Math.max(0, Number(grace) || 0);
  // How often idle connections are looked for once the grace is over.
  const SWEEP_MS = 100;
  // How long a client has to read that an HTTP/2 session ends before its new streams are refused.
  const NOTICE_MS = Math.min(graceMs, 500);
  // The highest stream there can be: a notice that refuses nothing.
  const LAST_STREAM = 2 ** 31 - 1;

  const servers = new Set();
  const sessions = new Set();
  let draining = false;

  const { listen } = net.Server.prototype;
  net.Server.prototype.listen = function (...args) {
    track(this);
    return Reflect.apply(listen, this, args);
  };
  Object.defineProperty(net.Server.prototype.listen, 'name', { value: listen.name });

  // Before Node's own listener, which closes the servers.
  process.prependListener('internalMessage', (message) => {
    if (!message || message.cmd !== 'NODE_CLUSTER' || message.act !== 'disconnect') return;
    if (draining) {
      // A primary that was restarted says it again; Node would take that for leave to cut every connection.
      message.act = 'disconnect again';
      return;
    }
    draining = true;
    attempt(drain);
  });

  // A drain that fails must not fail the application: it is then the drain that Node does.
  function attempt(act) {
    try {
      return act();
    } catch {
      return undefined;
    }
  }

  function track(server) {
    for (const known of servers) {
      const tracked = known.deref();
      if (tracked === server) return;
      if (tracked === undefined) servers.delete(known);
    }
    servers.add(new WeakRef(server));
    if (isHttp2(server)) server.on('session', adopt);
  }

  function isHttp2(server) {
    for (let it = server; it; it = Object.getPrototypeOf(it)) {
      if (/^Http2(Secure)?Server$/.test(it.constructor?.name)) return true;
    }
    return false;
  }

  function adopt(session) {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    if (draining) attempt(() => sendAway(session));
  }

  function drain() {
    // Also those that listened before this file was loaded.
    for (const handle of process._getActiveHandles?.() ?? []) {
      if (handle instanceof net.Server) track(handle);
    }
    require('diagnostics_channel').channel('http.server.request.start').subscribe(onRequest);
    for (const server of tracked()) attempt(() => shield(server));
    for (const { socket } of connections()) {
      const response = socket?._httpMessage;
      if (response && !response.headersSent) attempt(() => endConnectionAfter(response));
    }
    for (const session of sessions) attempt(() => sendAway(session));
    setTimeout(() => {
      sweep();
      setInterval(sweep, SWEEP_MS).unref();
    }, graceMs).unref();
  }

  function onRequest({ response }) {
    attempt(() => endConnectionAfter(response));
  }

  function tracked() {
    return [...servers].map((server) => server.deref()).filter(Boolean);
  }

  // What the HTTP/1 servers know of their connections: parsers, each with its socket.
  function connections() {
    return tracked().flatMap((server) => connectionsOf(server)?.all() ?? []);
  }

  function connectionsOf(server) {
    for (const symbol of Object.getOwnPropertySymbols(server)) {
      if (symbol.description === 'http.server.connections') return server[symbol];
    }
    return undefined;
  }

  // Keeps `server.close()`, which Node is about to call, from cutting idle connections off.
  function shield(server) {
    if (typeof server.closeIdleConnections !== 'function') return;
    const own = Object.getOwnPropertyDescriptor(server, 'closeIdleConnections');
    server.closeIdleConnections = () => {};
    process.nextTick(() => {
      delete server.closeIdleConnections;
      if (own) Object.defineProperty(server, 'closeIdleConnections', own);
    });
  }

  // Has a response say that it is the last of its connection, whatever the application says.
  function endConnectionAfter(response) {
    response.shouldKeepAlive = false;
    const { writeHead } = response;
    response.writeHead = function (...args) {
      const last = args.length - 1;
      const headers = args[last];
      if (args[0] === 101) return Reflect.apply(writeHead, this, args);
      if (Array.isArray(headers)) args[last] = closingList(headers);
      else if (headers && typeof headers === 'object') args[last] = closingObject(headers);
      else if (!this.headersSent) this.setHeader('Connection', 'close');
      return Reflect.apply(writeHead, this, args);
    };
  }

  function closingList(headers) {
    if (Array.isArray(headers[0])) {
      return [...headers.filter(([name]) => !isConnection(name)), ['Connection', 'close']];
    }
    const kept = headers.filter((_, place) => !isConnection(headers[place - (place % 2)]));
    return [...kept, 'Connection', 'close'];
  }

  function closingObject(headers) {
    const kept = Object.entries(headers).filter(([name]) => !isConnection(name));
    return { ...Object.fromEntries(kept), Connection: 'close' };
  }

  function isConnection(name) {
    return /^connection$/i.test(name);
  }

  function sendAway(session) {
    if (session.closed || session.destroyed) return;
    session.goaway(0, LAST_STREAM);
    // From Node 24 on, `server.close()` closes the sessions too, which refuses streams that are on their way.
    session.close = () => {};
    process.nextTick(() => delete session.close);
    setTimeout(() => attempt(() => session.close()), NOTICE_MS).unref();
  }

  function sweep() {
    for (const server of tracked()) attempt(() => server.closeIdleConnections?.());
    // A connection without any request is not idle to Node, and would keep the worker for as long as it likes. None of
    // them is younger than the drain.
    for (const { socket } of connections()) {
      if (socket?.bytesRead === 0 && !socket._httpMessage) socket.destroy();
    }
    for (const handle of process._getActiveHandles?.() ?? []) attempt(() => dropUnshaken(handle));
  }

  // The same for connections that have not even begun with TLS.
  function dropUnshaken(socket) {
    if (!(socket instanceof net.Socket) || socket.bytesRead !== 0) return;
    const { server } = socket;
    if (server && typeof server.closeIdleConnections === 'function' && !server.listening) socket.destroy();
  }
})();
