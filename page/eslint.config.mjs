// Undefined and unused names are the type check's: npx tsc -p page
export default [
  {
    rules: {
      eqeqeq: "error",
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all" }],
      "no-shadow": ["error", { builtinGlobals: false }],
      "no-self-compare": "error",
      "no-unreachable": "error",
      "no-fallthrough": "error",
      "no-dupe-keys": "error",
      "no-cond-assign": "error",
      "no-use-before-define": ["error", { functions: false, classes: false }],
      "max-len": ["error", { code: 100 }],
    },
  },
];
