// Browsers start no worker from a file. So where this site is opened from files, the search runs in a hidden frame that
// looks like a worker: it loads the worker's script, and messages go to and fro.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget { // the theme knows this name
    constructor(url) {
      super()
      this.waiting = []
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      addEventListener("message", event => {
        if (event.source !== this.frame.contentWindow) return
        const copy = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(copy)
        if (this.onmessage) this.onmessage(copy)
      })
      this.frame.srcdoc = `<body><script>
        postMessage = message => parent.postMessage(message, "*")
        importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise(done => {
          const script = document.createElement("script")
          script.src = url
          script.onload = done
          document.body.append(script)
        })), Promise.resolve())
      </script><script src="${new URL(url, location)}"></script></body>`
      this.frame.addEventListener("load", () => {
        const waiting = this.waiting
        this.waiting = null
        waiting.forEach(message => this.postMessage(message))
      })
      const attach = () => document.body.append(this.frame)
      document.body ? attach() : addEventListener("DOMContentLoaded", attach)
    }

    postMessage(message) {
      if (this.waiting) this.waiting.push(message)
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: message })) // its postMessage answers
    }

    terminate() {
      this.frame.remove()
    }
  }
  window.IFrameWorker = window.Worker = IFrameWorker
}
