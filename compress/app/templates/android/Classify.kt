// NOT RUN HERE: written against the documentation of onnxruntime-android, neither compiled nor run by the tool that
// wrote this bundle.
//
// build.gradle.kts:  implementation("com.microsoft.onnxruntime:onnxruntime-android:1.22.0")
// Put model.onnx and labels.txt into src/main/assets.

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import android.content.Context
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.util.Locale

class Classifier(context: Context) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session = environment.createSession(context.assets.open("model.onnx").use { it.readBytes() })
    private val labels = context.assets.open("labels.txt").bufferedReader().use { it.readLines() }

    /** "7  99.93 %  0.11 ms": the class, its probability, and the milliseconds of this inference. */
    fun classify(bitmap: Bitmap): String {
        val shape = longArrayOf(bitmap.height.toLong(), bitmap.width.toLong(), 3)
        OnnxTensor.createTensor(environment, rgb(bitmap), shape, OnnxJavaType.UINT8).use { image ->
            val start = System.nanoTime()
            session.run(mapOf("image" to image)).use { answer ->
                val milliseconds = (System.nanoTime() - start) / 1e6
                val label = (answer.get("label").get().value as LongArray)[0].toInt()
                val probability = (answer.get("probability").get().value as FloatArray)[0]
                return String.format(
                    Locale.ROOT, "%s  %.2f %%  %.2f ms", labels[label], 100 * probability, milliseconds)
            }
        }
    }

    private fun rgb(bitmap: Bitmap): ByteBuffer {
        val pixels = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        val buffer = ByteBuffer.allocateDirect(3 * pixels.size)
        for (pixel in pixels) {
            buffer.put((pixel shr 16).toByte()).put((pixel shr 8).toByte()).put(pixel.toByte())
        }
        buffer.rewind()
        return buffer
    }

    override fun close() = session.close()
}
