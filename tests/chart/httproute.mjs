// Reads an HTTPRoute as JSON, and prints what is wrong with it: what does not validate, and what nothing looked at while it was validated,
// for the validator lets pass what it does not know. Its first argument is the folder with node_modules.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const models = `${process.argv[2]}/node_modules/@kubernetes-models/gateway-api/gateway.networking.k8s.io`;
const { HTTPRoute } = await import(pathToFileURL(`${models}/v1/HTTPRoute.js`));
const read = new Set();

function watched(value, at) {
  if (typeof value !== "object" || value === null) return value;
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol" || !Object.hasOwn(target, key)) return target[key];
      read.add(`${at}${key}`);
      return watched(target[key], `${at}${key}.`);
    },
  });
}

function unread(value, at) {
  if (typeof value !== "object" || value === null) return [];
  return Object.keys(value).flatMap((key) => (read.has(`${at}${key}`) ? unread(value[key], `${at}${key}.`) : [`${at}${key}: not known`]));
}

const { metadata, spec } = JSON.parse(readFileSync(0, "utf8"));
const flaws = [];
const route = new HTTPRoute({ metadata });
// The constructor would read everything, to copy it.
route.spec = watched(spec, "spec.");
try {
  route.validate();
} catch (error) {
  flaws.push(error.message);
}
console.log([...flaws, ...unread(spec, "spec.")].join("\n"));
