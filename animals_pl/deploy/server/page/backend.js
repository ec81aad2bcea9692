// The model on the server. The page for devices has a backend.js of its own.

export const PRIVACY = "privacy"; // key of the text on where photos go

export const tokenWasSent = () => Boolean(sessionStorage.getItem("token"));

export const setToken = (token) => sessionStorage.setItem("token", token);

// Returns { status, model }. The status is that of HTTP; 0: there is no connection.
export async function loadModel() {
  takeTokenFromAddress();
  const { status, answer } = await request("model");
  return { status, model: answer };
}

// Returns { status, image }.
export async function identify(file, signal) {
  const body = new Blob([file], { type: "application/octet-stream" });
  const { status, answer } = await request("identify", { method: "POST", body, signal });
  return { status, image: answer?.images?.[0] };
}

async function request(path, options = {}) {
  const token = sessionStorage.getItem("token");
  try {
    const response = await fetch(path, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
    return { status: response.status, answer: await response.json() };
  } catch {
    return { status: 0 };
  }
}

function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    setToken(token);
    history.replaceState(null, "", location.pathname + location.search);
  }
}
