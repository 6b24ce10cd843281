// Numbers as they are shown.

const integers = new Intl.NumberFormat("en");

export function count(value) {
  return integers.format(value);
}

export function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

export function seconds(value) {
  return `${value.toFixed(2)}\u00a0s`;
}
