// A real browser loads the demo page direct and through larder, cold and warm: same DOM, same answers.
//
//   node run.mjs http://APP http://LARDER      (playwright-core beside it; chromium from CHROMIUM or /usr/bin)

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

// Installed under target/, away from this file: NODE_PATH works for require, not for import.
const { chromium } = createRequire(join(process.env.NODE_PATH ?? process.cwd(), 'x.js'))('playwright-core');

const [app, site] = process.argv.slice(2);
assert(app && site, 'usage: run.mjs http://APP http://LARDER');

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
// What a page can notice. Age, Via, Cache-Status and the like are larder's own words.
const FIELDS = ['content-type', 'cache-control', 'etag', 'location', 'set-cookie', 'vary'];
const PATIENCE = 20_000;

/** Visits the page as a person would and writes down everything seen. */
async function visit(base) {
  const profile = mkdtempSync(join(tmpdir(), 'larder-browser-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS,
  });
  try {
    const page = await context.newPage();
    const seen = { pages: [], answers: [], frames: [], events: [], problems: [] };
    const reading = [];
    page.on('pageerror', (error) => seen.problems.push(String(error)));
    page.on('console', (message) => message.type() === 'error' && seen.problems.push(message.text()));
    page.on('response', (response) => reading.push(describe(response, base).then((one) => seen.answers.push(one))));
    page.on('websocket', (socket) => {
      socket.on('framesent', ({ payload }) => seen.frames.push(['sent', payload.toString()]));
      socket.on('framereceived', ({ payload }) => seen.frames.push(['received', payload.toString()]));
    });

    await page.goto(`${base}/`, { timeout: PATIENCE });
    await page.waitForFunction(() => document.body.dataset.done === 'events fleet socket', null, { timeout: PATIENCE });
    await page.waitForFunction(() => [...document.images].every((image) => image.complete), null, { timeout: PATIENCE });
    seen.pages.push(await page.content());
    seen.events = await page.locator('#events li').allTextContents();
    seen.sizes = await page.evaluate(() => [...document.images].map((image) => image.naturalWidth));
    seen.colour = await page.evaluate(() => getComputedStyle(document.querySelector('h1')).color);

    await page.fill('#name', 'Grace');
    await Promise.all([page.waitForURL('**/greeting', { timeout: PATIENCE }), page.click('#send')]);
    seen.pages.push(await page.content());
    seen.cookies = (await context.cookies(base)).map(({ name, value, httpOnly, sameSite }) => ({ name, value, httpOnly, sameSite }));

    await Promise.all(reading);
    seen.answers.sort((a, b) => (a.name < b.name ? -1 : 1));
    return seen;
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

async function describe(response, base) {
  const request = response.request();
  const headers = await response.allHeaders();
  const fields = Object.fromEntries(FIELDS.filter((name) => name in headers).map((name) => [name, headers[name]]));
  const name = `${request.method()} ${response.url().slice(base.length)}`;
  // A redirect has no body to read, an event stream none that ends by itself.
  const bodiless = response.status() >= 300 || name.includes('/events');
  const body = bodiless ? null : createHash('sha256').update(await response.body()).digest('hex');
  return { name, status: response.status(), fields, body };
}

const direct = await visit(app);
assert.deepEqual(direct.problems, [], 'the page itself is well');
assert.deepEqual(direct.events, ['{"n":0}', '{"n":1}', '{"n":2}']);
assert.deepEqual(direct.frames, [['sent', 'through the wall'], ['received', 'through the wall']]);
assert(direct.sizes.every((width) => width > 0), 'images are drawn');
assert(direct.pages[1].includes('Hello, Grace'), 'the cookie came back');
assert(direct.answers.some(({ name, status }) => name === 'POST /form' && status === 303), 'the form was posted');

for (const round of ['cold', 'warm']) {
  const through = await visit(site);
  assert.deepEqual(through, direct, `through larder (${round}) nothing differs`);
  console.log(`${round}: ${through.answers.length} answers, ${through.pages.length} pages, ${through.frames.length} frames are the same`);
}
